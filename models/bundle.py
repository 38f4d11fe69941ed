"""A bundle: the directory in which a model travels. Written once, never changed, every file hashed.

manifest.json   what the model is and what it wants; its id is the hash of all it says
model.onnx      raw features in, quantiles of log returns out; every scaling is inside
sample.npz      inputs, and the outputs they must give: the engine's self-test
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec

FORMAT = 1
MANIFEST, GRAPH, SAMPLE = "manifest.json", "model.onnx", "sample.npz"


class Flaw(IntEnum):
    """Why a bundle was refused."""

    MISSING = 1  # no such directory, or a file that the manifest names is not there
    MANIFEST = 2  # unreadable, of another format, or not what its id says
    HASH = 3  # a file is not the one that was published
    FEATURE_SET = 4  # trained on other features than those that are computed here
    GRAPH = 5  # onnxruntime cannot load it, or its inputs and outputs are not the manifest's
    SELF_TEST = 6  # the sample gives other numbers, or crossing quantiles


class Refusal(msgspec.Struct, frozen=True):
    """A bundle that was not taken: which, why, and the particulars."""

    path: str
    flaw: Flaw
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.flaw.name.lower()}: {self.detail}"


class BundleError(ValueError):
    """Raised where a bundle must be taken or nothing goes on; carries the refusal."""

    def __init__(self, refusal: Refusal):
        super().__init__(str(refusal))
        self.refusal = refusal


class Calibration(msgspec.Struct, frozen=True):
    """Platt's two numbers: P(correct | p) = 1 / (1 + exp(a p + b)); unless `kept` the raw probability stands."""

    a: float = 0.0
    b: float = 0.0
    fitted: bool = False
    kept: bool = False  # it lowered the Brier score out of sample


class Reference(msgspec.Struct, frozen=True):
    """What validation looked like, for whoever watches for drift."""

    edge: float = 0.0  # median of 2 max(p, 1 - p) - 1 at the decision horizon
    coverage: tuple[float, ...] = ()  # of [q10, q90], by horizon
    bins: dict[str, tuple[float, ...]] = {}  # by feature: the nine deciles of the training rows
    # by horizon: the quantiles of the training labels in volatility units, which the model has to beat
    usual: tuple[tuple[float, ...], ...] | msgspec.UnsetType = msgspec.UNSET


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model is, for whoever serves it."""

    feature_set: str  # operators.features.set_hash of the set that it was trained on
    features: tuple[str, ...]  # columns of a window, in order
    known: tuple[str, ...]  # columns of the known future, operators.known.NAMES
    timeframe: int  # minutes of a bar
    lookback: int  # bars of a window
    horizons: tuple[int, ...]  # bars ahead
    decision_horizon: int  # the one of them that trades
    quantiles: tuple[float, ...]
    symbols: tuple[str, ...]  # those with an embedding of their own: symbol k is number k + 1, all others 0
    label: str  # what a quantile is of
    trained_from: str  # first training bar, ISO
    trained_upto: str  # end of the last training label
    data: str  # what it was trained on
    synthetic: bool  # a demonstration: trained on made-up bars
    promotable: bool  # it passed every gate
    reasons: tuple[str, ...]  # why not
    calibration: Calibration
    conformal: tuple[float, ...]  # by horizon: widening of [q10, q90] in volatility units, inside the graph
    reference: Reference
    metrics: dict[str, float]
    files: dict[str, str]  # sha256 by name
    gap_days: int | msgspec.UnsetType = msgspec.UNSET  # longest pause within a window, calendar days; see `pause`
    format: int = FORMAT
    id: str = ""

    @property
    def pause(self) -> int:
        """Longest pause within a window; bundles that do not say were trained with five days."""
        return 5 if isinstance(self.gap_days, msgspec.UnsetType) else self.gap_days

    def named(self) -> "Manifest":
        """With the id that its content gives it."""
        content = msgspec.json.encode(msgspec.structs.replace(self, id=""), order="sorted")
        day = self.trained_upto[:10].replace("-", "")
        return msgspec.structs.replace(self, id=f"tft_{day}_{hashlib.sha256(content).hexdigest()[:12]}")


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def publish(root: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write a bundle to `root/ID` in one step; one that is there already is left alone."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    named = msgspec.structs.replace(manifest, files=hashes).named()
    target = root / named.id
    if target.exists():
        return target
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
    try:
        partial.chmod(0o755)
        for name, data in files.items():
            (partial / name).write_bytes(data)
        (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(named), indent=1))
        for name in (*files, MANIFEST):
            with (partial / name).open("rb") as written:
                os.fsync(written.fileno())
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def read(path: Path) -> Manifest | Refusal:
    """The manifest of a bundle whose files are all what it says."""

    def refused(flaw: Flaw, detail: Any) -> Refusal:
        return Refusal(str(path), flaw, str(detail))

    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        return refused(Flaw.MISSING, f"{MANIFEST}: {error.strerror or error}")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        return refused(Flaw.MANIFEST, error)
    if manifest.format != FORMAT:
        return refused(Flaw.MANIFEST, f"format {manifest.format}, want {FORMAT}")
    if manifest.id != manifest.named().id:
        return refused(Flaw.MANIFEST, f"id {manifest.id}, but its content makes {manifest.named().id}")
    for name in (GRAPH, SAMPLE):
        if name not in manifest.files:
            return refused(Flaw.MANIFEST, f"names no {name}")
    for name, expected in manifest.files.items():
        try:
            found = sha256(path / name)
        except OSError as error:
            return refused(Flaw.MISSING, f"{name}: {error.strerror or error}")
        if found != expected:
            return refused(Flaw.HASH, f"{name} has {found[:12]}, want {expected[:12]}")
    return manifest
