"""Tiny bundles with a graph made by hand: what the engine's tests and a forecast's tests serve."""

import io

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.bundle import GRAPH, SAMPLE, Calibration, Manifest, Reference, publish
from models.engine import session
from operators import known

FEATURES = ("price", "returns_1", "volatility_5", "rsi_14")


def graph(lookback=6, features=FEATURES, horizons=(30, 45, 60), *, crossing=False, seed=0):
    """tanh(window · W + future · V + symbol / 8) × √h × 0.01, ± 0.02."""
    rng = np.random.default_rng(seed)
    count = len(horizons)
    spread = np.array([0.02, 0.0, -0.02] if crossing else [-0.02, 0.0, 0.02], np.float32)
    constants = {
        "weights": rng.normal(0, 0.1, (lookback * len(features), count)).astype(np.float32),
        "known_weights": rng.normal(0, 0.01, (count * len(known.NAMES), count)).astype(np.float32),
        "roots": (np.sqrt(horizons) * 0.01).astype(np.float32),
        "spread": spread.reshape(1, 1, 3),
        "flat": np.array([-1, lookback * len(features)], np.int64),
        "flat_known": np.array([-1, count * len(known.NAMES)], np.int64),
        "column": np.array([-1, 1], np.int64),
        "last": np.array([-1, count, 1], np.int64),
        "eighth": np.array(0.125, np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["features", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["seen"]),
        helper.make_node("Reshape", ["future", "flat_known"], ["known_rows"]),
        helper.make_node("MatMul", ["known_rows", "known_weights"], ["expected"]),
        helper.make_node("Add", ["seen", "expected"], ["sum0"]),
        helper.make_node("Cast", ["symbol"], ["who"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["who", "eighth"], ["bias"]),
        helper.make_node("Reshape", ["bias", "column"], ["bias_column"]),
        helper.make_node("Add", ["sum0", "bias_column"], ["sum1"]),
        helper.make_node("Tanh", ["sum1"], ["bounded"]),
        helper.make_node("Mul", ["bounded", "roots"], ["middle"]),
        helper.make_node("Reshape", ["middle", "last"], ["deep"]),
        helper.make_node("Add", ["deep", "spread"], ["quantiles"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [
                helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", lookback, len(features)]),
                helper.make_tensor_value_info("future", TensorProto.FLOAT, ["batch", count, len(known.NAMES)]),
                helper.make_tensor_value_info("symbol", TensorProto.INT64, ["batch"]),
            ],
            [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["batch", count, 3])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def examples(rows, lookback=6, features=FEATURES, horizons=(30, 45, 60), seed=1):
    """Windows, known futures and symbols such as a graph takes."""
    rng = np.random.default_rng(seed)
    windows = rng.normal(0, 1, (rows, lookback, len(features))).astype(np.float32)
    future = rng.uniform(0, 5, (rows, len(horizons), len(known.NAMES))).astype(np.float32)
    return windows, future, rng.integers(0, 3, rows)


def manifest(lookback=6, features=FEATURES, horizons=(30, 45, 60), feature_set="0123456789abcdef", **changes):
    """A manifest for `graph`."""
    given = {
        "feature_set": feature_set,
        "features": tuple(features),
        "known": known.NAMES,
        "timeframe": 1,
        "lookback": lookback,
        "horizons": tuple(horizons),
        "decision_horizon": horizons[0],
        "quantiles": (0.1, 0.5, 0.9),
        "symbols": ("AAA", "BB"),
        "label": "log return",
        "trained_from": "2024-01-02T15:30:00Z",
        "trained_upto": "2024-03-01T21:00:00Z",
        "data": "made by hand",
        "synthetic": True,
        "promotable": True,
        "reasons": (),
        "calibration": Calibration(),
        "conformal": (0.0,) * len(horizons),
        "reference": Reference(),
        "metrics": {},
        "files": {},
    }
    return Manifest(**{**given, **changes})


def files(blob, rows=5, lookback=6, features=FEATURES, horizons=(30, 45, 60)):
    """The files of a bundle: a graph and the sample it answers."""
    windows, future, symbol = examples(rows, lookback, features, horizons)
    answer = session(blob).run(None, {"features": windows, "future": future, "symbol": symbol})[0]
    sample = io.BytesIO()
    np.savez(sample, features=windows, future=future, symbol=symbol, quantiles=answer)
    return {GRAPH: blob, SAMPLE: sample.getvalue()}


def make(root, lookback=6, features=FEATURES, horizons=(30, 45, 60), seed=0, **changes):
    """A good bundle in `root`; its path."""
    blob = graph(lookback, features, horizons, seed=seed)
    return publish(
        root, manifest(lookback, features, horizons, **changes), files(blob, 5, lookback, features, horizons)
    )
