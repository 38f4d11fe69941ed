"""A bundle in service: onnxruntime behind one function. Imports nothing that trains.

    engine = Engine.open(path, feature_set=features.set_hash(params))     # raises BundleError
    quantiles = engine.forecast(windows, future, engine.numbers(names))   # [n, horizons, 3] log returns

A `Holder` swaps engines and keeps the old one when the new one is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from models.bundle import GRAPH, SAMPLE, BundleError, Flaw, Manifest, Refusal, read
from schemas.frames import Floats, Longs

# Rows of every call. With more, onnxruntime's kernels give a row other last bits at another place in the batch
# (seen with 2, 3, 4, 6, 8, 12 and 16), and a forecast may not depend on who came with it.
BATCH = 1
TOLERANCE = 1e-5  # of the self-test: another CPU may use other kernels
INPUTS, OUTPUT = ("features", "future", "symbol"), "quantiles"
Inputs = npt.NDArray[np.float32] | Floats


class Engine:
    """One model, ready. Not changed after it was opened; may be called from several threads."""

    def __init__(self, manifest: Manifest, session: Any):
        self.manifest = manifest
        self._session = session
        self._numbers = {name: k + 1 for k, name in enumerate(manifest.symbols)}

    @classmethod
    def open(cls, path: Path | str, feature_set: str | None = None) -> "Engine":
        """Open a bundle, or raise BundleError with the refusal."""
        engine = opened(Path(path), feature_set)
        if isinstance(engine, Refusal):
            raise BundleError(engine)
        return engine

    @property
    def id(self) -> str:
        """The model's id."""
        return self.manifest.id

    def numbers(self, names: Sequence[str]) -> Longs:
        """The model's own numbers of symbols; 0 for those it was not trained on."""
        return np.array([self._numbers.get(name, 0) for name in names], np.int64)

    def forecast(self, windows: Inputs, future: Inputs, symbol: Longs | None = None) -> Floats:
        """Quantiles of the log return to each horizon, [rows, horizons, quantiles], ascending.

        `windows` [rows, lookback, features] end at the bar of the decision; `future` [rows, horizons, known] are
        `operators.known.inputs` at it; `symbol` [rows] are `numbers`, all unknown if not given. A row in which
        anything is not finite gets NaN. The bits of a row depend on that row alone.
        """
        rows = len(windows)
        m = self.manifest
        shapes = (rows, m.lookback, len(m.features)), (rows, len(m.horizons), len(m.known))
        if (windows.shape, future.shape) != shapes:
            raise ValueError(f"windows {windows.shape} and future {future.shape}: want {shapes[0]} and {shapes[1]}")
        who = np.zeros(rows, np.int64) if symbol is None else symbol
        answer = np.full((rows, len(m.horizons), len(m.quantiles)), np.nan)
        good = np.isfinite(windows).all(axis=(1, 2)) & np.isfinite(future).all(axis=(1, 2))
        feeds: list[npt.NDArray[Any]] = [windows.astype(np.float32, copy=False), future.astype(np.float32, copy=False),
                                         who.astype(np.int64, copy=False)]  # fmt: skip
        for row in np.flatnonzero(good).tolist():
            own = slice(row, row + BATCH)
            feed = {name: values[own] for name, values in zip(INPUTS, feeds, strict=True)}
            answer[own] = self._session.run([OUTPUT], feed)[0]
        return answer


class Holder:
    """The engine in force; a refused bundle changes nothing."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.previous: Engine | None = None

    def take(self, path: Path | str, feature_set: str | None = None) -> Refusal | None:
        """Put another bundle in force, or say why not."""
        engine = opened(Path(path), feature_set)
        if isinstance(engine, Refusal):
            return engine
        self.previous, self.engine = self.engine, engine
        return None


def opened(path: Path, feature_set: str | None = None) -> Engine | Refusal:
    """Check hashes, feature set, graph and self-test, in this order."""
    manifest = read(path)
    if isinstance(manifest, Refusal):
        return manifest
    if feature_set is not None and manifest.feature_set != feature_set:
        return Refusal(str(path), Flaw.FEATURE_SET, f"trained on {manifest.feature_set}, here is {feature_set}")
    try:
        loaded = session((path / GRAPH).read_bytes())
    except Exception as error:  # onnxruntime's errors share no class
        return Refusal(str(path), Flaw.GRAPH, " ".join(str(error).split())[:300])
    engine = Engine(manifest, loaded)
    flaw = _shapes(loaded, manifest)
    if flaw:
        return Refusal(str(path), Flaw.GRAPH, flaw)
    try:
        flaw = _self_test(engine, path / SAMPLE)
    except Exception as error:
        flaw = " ".join(str(error).split())[:300]
    return Refusal(str(path), Flaw.SELF_TEST, flaw) if flaw else engine


def session(graph: bytes) -> Any:
    """One thread that does not spin: the dataflow needs the other cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _shapes(loaded: Any, m: Manifest) -> str:
    """What is wrong with the graph's inputs and outputs, or nothing."""
    wanted = {
        "features": ("tensor(float)", [m.lookback, len(m.features)]),
        "future": ("tensor(float)", [len(m.horizons), len(m.known)]),
        "symbol": ("tensor(int64)", []),
        "quantiles": ("tensor(float)", [len(m.horizons), len(m.quantiles)]),
    }
    found = {node.name: (node.type, list(node.shape[1:])) for node in (*loaded.get_inputs(), *loaded.get_outputs())}
    for name, (kind, shape) in wanted.items():
        if name not in found:
            return f"has no {name}"
        if found[name][0] != kind or any(
            isinstance(have, int) and have != want for have, want in zip(found[name][1], shape, strict=True)
        ):
            return f"{name} is {found[name][0]} {found[name][1]}, want {kind} {shape}"
    return ""


def _self_test(engine: Engine, path: Path) -> str:
    """What is wrong with the answers to the sample, or nothing."""
    with np.load(path, allow_pickle=False) as sample:
        windows, future, symbol, expected = (sample[name] for name in (*INPUTS, OUTPUT))
    if len(windows) < 2:
        return f"the sample has {len(windows)} rows, want 2 or more"
    found = engine.forecast(windows, future, symbol)
    if not np.isfinite(found).all():
        return "a forecast is not finite"
    if (np.diff(found, axis=-1) < 0.0).any():
        return "quantiles cross"
    worst = float(np.abs(found - expected).max())
    if not worst <= TOLERANCE:
        return f"off by {worst:.2g}, allowed {TOLERANCE:g}"
    return ""
