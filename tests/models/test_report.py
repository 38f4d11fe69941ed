"""The report says plainly what was found."""

from models import report
from models.bundle import Calibration
from models.calibration import Rolled


def model(name, skill, error=0.01):
    return report.Model(name, 0.3 * (1 - skill), skill, error, 0.79, 0.80, 0.4, 3, 40.0)


def test_the_skill_in_a_sentence():
    others = [model("empirical", 0.0, 0.0), model("linear", 0.04)]
    assert "does not beat" in report.skill_sentence([model("tft", 0.015), *others])
    assert "does not beat" in report.skill_sentence([model("tft", -0.015), *others])
    assert "is worse than" in report.skill_sentence([model("tft", -0.03), *others])
    assert report.skill_sentence([model("tft", 0.05), *others]).startswith("The TFT beats")
    assert "but linear is as good or better" in report.skill_sentence([model("tft", 0.03), *others])
    assert "says nothing about chance" in report.skill_sentence([model("tft", 0.9, float("nan"))])


def findings(**changes):
    fold = dict.fromkeys(("sharpe", "sortino", "calmar", "max_drawdown", "win_rate", "trades", "coverage_corrected",
                          "skill", "total_return"), 0.25)  # fmt: skip
    given = {
        "id": "tft_x", "data": "bars", "synthetic": True, "settings": [("training.data.lookback", "60")],
        "models": [model("tft", 0.0), model("empirical", 0.0)], "folds": [{**fold, "sharpe": float("nan")}],
        "spans": [("2020-01-02", "2020-04-30")], "reasons": ["fold 1: 0 trades, want 5 or more <b>"],
        "medians": {"sharpe": 0.1, "win_rate": 0.5}, "held": 0.7, "probabilistic": 0.6, "deflated": 0.4, "trials": 3,
        "power": [(0.0, 0.0), (3.0, 0.3)], "calibration": Rolled(Calibration(), float("nan"), float("nan"), 0),
        "bins": [], "horizons": (30,), "coverage": [0.79], "corrected": [0.8],
        "ends": [("expected_return", 30), ("none", 10)], "shorts": False,
    }  # fmt: skip
    return report.Findings(**{**given, **changes})


def test_a_refusal_and_a_demonstration_stand_at_the_top():
    parts = report.sections(findings())
    text, page = report.markdown(parts), report.page(parts)
    for found in (text, page):
        assert "SYNTHETIC" in found
        assert "Refused. A refused model is a valid result." in found
        assert "uncalibrated" in found
        assert "deflated for 3 configurations tried" in found
        assert "short forecasts are not traded" in found
    assert "want 5 or more <b>" in text
    assert "| expected_return | 30 | 75.0% |\n| a candidate for an order | 10 | 25.0% |" in text
    assert "<b>" not in page
    assert "| 1 2020-01-02 to 2020-04-30 | - |" in text  # what is no number is no zero
    passed = report.markdown(report.sections(findings(reasons=[], synthetic=False)))
    assert "every gate is passed" in passed
    assert "SYNTHETIC" not in passed
