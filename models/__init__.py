"""Where a forecast comes from: dataset, network, baselines, folds and gates, calibration, export, registry.

Serving needs `engine` and `bundle` only; torch and MLflow are imported by `tft`, `export` and `registry`.
"""
