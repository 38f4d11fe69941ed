"""What training is told: Params of dataset, network, folds and gates; lengths in bars, or in sessions where said."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from operators import features

BASELINE = features.ORDER[:15]  # section 4.1 of the contracts
QUANTILES = (0.1, 0.5, 0.9)
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """Windows and labels, counted in bars."""

    features: tuple[str, ...] = BASELINE
    lookback: Annotated[int, Meta(ge=2, le=2_000)] = 120
    horizons: tuple[Annotated[int, Meta(ge=1, le=2_000)], ...] = (30, 45, 60)
    decision_horizon: Count = 30  # the one that trades
    every: Count = 5  # of so many bars one is a sample: labels overlap, the others cost more than they tell
    gap_days: Annotated[int, Meta(ge=0, le=60)] = 5  # between neighbouring bars of a window; 0: one session only

    def __post_init__(self) -> None:
        for name in self.features:
            if name not in features.ORDER:
                raise ValueError(f"features: there is no {name}; want some of {', '.join(features.ORDER)}")
        for name in ("price", "returns_1", "minute_of_day", "day_of_week"):
            if name not in self.features:
                raise ValueError(f"features: {name} is missing; scaling and calendar are made of it")
        if len(set(self.features)) != len(self.features):
            raise ValueError("features: one stands there twice")
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError(f"horizons = {list(self.horizons)}: want them ascending, each once")
        if self.decision_horizon not in self.horizons:
            raise ValueError(f"decision_horizon = {self.decision_horizon}: want one of {list(self.horizons)}")

    @property
    def embargo(self) -> int:
        """Bars between what a fold learns from and what it is judged on."""
        return self.lookback + max(self.horizons)

    @property
    def decision(self) -> int:
        """Place of the horizon that trades."""
        return self.horizons.index(self.decision_horizon)


class Network(Struct, frozen=True, forbid_unknown_fields=True):
    """The network and how it is fitted."""

    hidden: Annotated[int, Meta(ge=2, le=1_024)] = 16
    heads: Annotated[int, Meta(ge=1, le=64)] = 2
    dropout: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.1
    batch: Annotated[int, Meta(ge=2, le=65_536)] = 128
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 12
    patience: Count = 3  # epochs without a better validation loss
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.003  # the highest of the one cycle
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.00001
    clip: Annotated[float, Meta(gt=0.0, le=1_000.0)] = 0.5  # of the gradient's norm
    unknown: Share = 0.1  # of the samples learn as a symbol nobody knows
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 1

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden}, heads = {self.heads}: want hidden to be a multiple of heads")
        if self.hidden == 8:
            raise ValueError("hidden = 8: want another size; a single input is 8 wide and must differ")


class Folds(Struct, frozen=True, forbid_unknown_fields=True):
    """Rolling folds, counted in sessions; the last one ends with the bars."""

    count: Annotated[int, Meta(ge=1, le=200)] = 12
    train: Count = 630  # sessions to learn from: 30 months
    validation: Count = 126  # sessions after them that choose the epoch, 6 months
    test: Count = 84  # sessions out of sample, 4 months
    processes: Annotated[int, Meta(ge=0, le=256)] = 0  # folds at a time; 0: one per core


class Gates(Struct, frozen=True, forbid_unknown_fields=True):
    """What the folds must reach out of sample, after costs, for a model to be promoted."""

    folds: Annotated[int, Meta(ge=1, le=200)] = 6  # the fewest
    sharpe: float = 0.5  # the median's least
    win_rate: Share = 0.45  # the median's least
    worst_sharpe: float = 0.0  # no fold may be below
    trades: Count = 5  # of every fold, the fewest


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """How models are trained and judged."""

    data: Data = Data()
    network: Network = Network()
    folds: Folds = Folds()
    gates: Gates = Gates()
    baselines: tuple[str, ...] = ("empirical", "linear", "lightgbm")  # beside the network; lightgbm where installed
    calibration_least: Count = 200  # decisions before a calibrator is fitted
    tracking: str = ""  # MLflow's address; none: SQLite in the store

    def __post_init__(self) -> None:
        for name in self.baselines:
            if name not in ("empirical", "linear", "lightgbm"):
                raise ValueError(f"baselines: there is no {name}; want some of empirical, linear, lightgbm")
        if "empirical" not in self.baselines:
            raise ValueError("baselines: empirical is missing; the skill is measured against it")


def describe(*params: object) -> str:
    """Parameters as canonical JSON, for hashes and records."""
    return msgspec.json.encode(params, order="sorted").decode()
