"""The models of a run: which is in force from when, and the engines that answer for them.

The history is the registry's; or a file of lines, appended to and never changed:

    {"from": "2024-03-04T14:31:00Z", "model": "tft_20240301_0123456789ab"}
    {"from": "2024-03-11T13:30:00Z", "model": "none"}

A model is in force from the first slice that ends at `from` or later. All that a backtest needs is opened before
its first bar; a model that is not there, or not what it says, stops the run: it never decides with another one.
"""

import atexit
import difflib
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from operators import features, forecast, known
from operators.forecast import Model, Singles, fingerprint
from schemas.calendar import Calendar, timeframe_name
from schemas.errors import UserError
from schemas.frames import Activation, Floats, Longs, Names, RawFrame
from schemas.identity import iso
from schemas.units import NS_PER_SECOND

if TYPE_CHECKING:
    from infra.forecast_store import ForecastStore
    from models.bundle import Manifest
    from models.engine import Engine

NONE, CHAMPION = "none", "champion"  # what forecast.model may be beside an id or a path
REGISTRY, HISTORY = "registry.db", "history.jsonl"  # in the store; the second where there is no registry


class Event(NamedTuple):
    """A model is in force from an instant on; an empty id: none is."""

    ts: int  # UTC ns
    model: str
    bundle: str = ""  # hash of its manifest, where it was announced


class Served(NamedTuple):
    """A bundle in service."""

    engine: "Engine"
    model: Model
    kept: "ForecastStore | None"
    bundle: str  # hash of its manifest


class Forecaster:
    """Engines by model id. Steps call `model` and `forecast`, from any thread; nothing here looks for news."""

    def __init__(
        self,
        events: Sequence[Event],
        paths: dict[str, Path],
        store: Path,
        calendar: Calendar,
        after: int,
        keep: Path | None = None,
        logged: bool = False,
    ):
        """`paths` are bundles outside the store; `keep` is where forecasts are kept, `after` where the log begins.

        `logged`: the frames have their events already, and of `events` only that from before the log is new to them.
        """
        self._paths, self._store, self._calendar, self._keep = dict(paths), store, calendar, keep
        self._logged, self._after = logged, after
        self._served: dict[str, Served] = {}
        self._lock = threading.Lock()
        self.computed = self.reused = self.failed = 0  # forecasts
        self.first_failure = ""
        self.horizons: tuple[int, ...] = ()  # of the first model that was opened; all others must have them
        self.decision = 0
        self.events = _from(events, after)
        atexit.register(self.close)

    def open(self, upto: int) -> "Forecaster":
        """Open all models of the log up to an instant, UTC ns; raises UserError."""
        for event in self.events:
            if event.model and event.ts <= upto:
                self.model(event.model)
        return self

    def told(self, frame: RawFrame) -> RawFrame:
        """A frame with the events of its range. Raises UserError for one that came with another bundle than is here."""
        slices, logged = frame.slices, frame.models if self._logged else ()
        last = self._after + 1 if self._logged else slices.upto
        own = [event for event in self.events if slices.after < event.ts <= min(slices.upto, last)]
        for event in logged:
            self._check(event)
        if not own and logged == frame.models:
            return frame
        places = np.searchsorted(slices.ts, [event.ts for event in own]).tolist()
        told = (Activation(at, event.model, event.bundle) for at, event in zip(places, own, strict=True))
        return replace(frame, models=(*told, *logged))

    def _check(self, event: Activation) -> None:
        """Nothing decides with another model than the one that was announced."""
        if event.model and event.bundle:
            self.model(event.model)
            own = self._served[event.model].bundle
            if own != event.bundle:
                raise UserError(f"model {event.model}: the bundle here has the hash {own[:12]}, announced was "
                                f"{event.bundle[:12]}; put the right bundle there")  # fmt: skip

    def model(self, id: str) -> Model:  # noqa: A002
        """What the step has to know of a model; opened when it is asked for first. Raises UserError."""
        served = self._served.get(id)
        if served is None:
            with self._lock:
                served = self._served.get(id) or self._served.setdefault(id, self._open(id))
        return served.model

    def forecast(self, id: str, names: Names, ts: Longs, windows: Singles) -> Floats:  # noqa: A002
        """Quantiles [rows, horizons, 3], kept ones where the numbers are the same; NaN where the engine failed."""
        engine, _, kept, _ = self._served[id]
        who, of = np.unique(names, return_inverse=True)
        number = engine.numbers([name.decode() for name in who.tolist()])[of]
        future = known.inputs(self._calendar, ts, self.horizons).astype(np.float32)
        if kept is None:
            return self._computed(engine, windows, future, number)
        words = _words(windows, future, number)
        found, answer = kept.find(ts, words)
        rest = np.flatnonzero(~found)
        if rest.size:
            fresh = self._computed(engine, windows[rest], future[rest], number[rest])
            answer[rest] = fresh
            good = np.isfinite(fresh).all(axis=(1, 2))
            with self._lock:
                kept.add(names[rest[good]], ts[rest[good]], words[rest[good]], answer[rest[good]])
        with self._lock:
            self.reused += ts.size - rest.size
        return answer.astype(np.float64)

    def _computed(self, engine: "Engine", windows: Singles, future: Singles, number: Longs) -> Floats:
        try:
            answer = engine.forecast(windows, future, number)
        except Exception as error:  # onnxruntime's errors share no class; the rows get the reason `error`
            answer = np.full((len(windows), *future.shape[1:2], 3), np.nan)
            with self._lock:
                self.first_failure = self.first_failure or " ".join(str(error).split())[:300]
        bad = len(answer) - int(np.isfinite(answer).all(axis=(1, 2)).sum())
        with self._lock:
            self.computed += len(answer) - bad
            self.failed += bad
        return answer

    def close(self) -> None:
        """Write the forecasts that are new."""
        atexit.unregister(self.close)
        with self._lock:
            for served in self._served.values():
                if served.kept is not None:
                    served.kept.flush()

    def manifest(self, id: str) -> "Manifest":  # noqa: A002
        """What the bundle of a model says of itself."""
        self.model(id)
        return self._served[id].engine.manifest

    def counts(self) -> dict[str, Any]:
        """How many forecasts were computed, read and failed in this process."""
        told = {"computed": self.computed, "reused": self.reused, "failed": self.failed}
        return told | ({"first_failure": self.first_failure} if self.first_failure else {})

    def describe(self) -> dict[str, Any]:
        """Who forecasts, for the summary: models in the order of their numbers, and the events."""
        ids = list(dict.fromkeys(event.model for event in self.events if event.model in self._served))
        events = [{"ts": event.ts, "model": event.model} for event in self.events
                  if not event.model or event.model in self._served]  # fmt: skip
        models = [_about(self._served[id_].engine.manifest, self._paths.get(id_) or _place(self._store, id_))
                  for id_ in ids]  # fmt: skip
        return {"models": models, "events": events}

    def _open(self, id_: str) -> Served:
        import onnxruntime

        from infra.forecast_store import ForecastStore
        from models.bundle import MANIFEST, Refusal, sha256
        from models.engine import opened

        path = self._paths.get(id_) or _place(self._store, id_)
        engine = opened(path, features.set_hash(features.Params(set="all")))
        if isinstance(engine, Refusal):
            raise UserError(f"model {id_}: {engine}{self._since(id_)}; put the right bundle there")
        m = engine.manifest
        if m.id != id_:
            raise UserError(f"model {id_}: {path} holds {m.id}{self._since(id_)}")
        if m.timeframe != self._calendar.timeframe:
            own, wanted = timeframe_name(m.timeframe), timeframe_name(self._calendar.timeframe)
            raise UserError(f"model {id_}: trained on {own} bars, these are {wanted} bars")
        if len(m.quantiles) != 3 or m.quantiles != (0.1, 0.5, 0.9):
            raise UserError(f"model {id_}: gives the quantiles {list(m.quantiles)}, want 0.1, 0.5, 0.9")
        if len(id_.encode()) > forecast.MAX_ID:
            raise UserError(f"model {id_}: an id may have {forecast.MAX_ID} bytes at most")
        decision = m.horizons.index(m.decision_horizon)
        if self.horizons and (m.horizons, decision) != (self.horizons, self.decision):
            own = f"{list(m.horizons)} bars ahead and trades {m.decision_horizon}"
            wanted = f"{list(self.horizons)} and {self.horizons[self.decision]}"
            raise UserError(f"model {id_}: forecasts {own}; the models before it {wanted}, and a run keeps to that")
        model = Model(m.id, m.features, m.lookback, m.pause, m.calibration.a, m.calibration.b,
                      m.calibration.kept, m.reference.edge, m.reference.usual or ())  # fmt: skip
        engine_name = f"onnxruntime {onnxruntime.__version__}"
        kept = None if self._keep is None else ForecastStore(self._keep, m.id, len(m.horizons), engine_name)
        self.horizons, self.decision = m.horizons, decision
        return Served(engine, model, kept, sha256(path / MANIFEST))

    def _since(self, id_: str) -> str:
        first = min((event.ts for event in self.events if event.model == id_), default=None)
        return "" if first is None else f" (in force from {iso(first)})"


def open_forecaster(
    params: forecast.Params,
    calendar: Calendar,
    after: int,
    upto: int,
    history: Path | None = None,
    keep: Path | None = None,
    logged: Sequence[Event] | None = None,
) -> Forecaster | None:
    """The models of the range `after < ts <= upto`, opened; None where none is configured. Raises UserError.

    `history` is a file of activations, whose bundles lie in the store or beside the file. `logged` is what a log of
    slices says itself: there the champion is whichever was in force when it was written.
    """
    store, paths = Path(params.store).expanduser(), {}
    if logged is not None and history is None and params.model == CHAMPION:
        return Forecaster(sorted(logged, key=lambda event: event.ts), {}, store, calendar, after, keep, True).open(upto)
    if history is not None:
        events = read_history(history)
        paths = {event.model: history.parent / event.model for event in events
                 if event.model and not _place(store, event.model).is_dir()}  # fmt: skip
    elif params.model == NONE:
        return None
    elif params.model == CHAMPION:
        events = _champions(store) if (store / REGISTRY).is_file() else read_history(store / HISTORY)
    else:
        id_, path = _named(params.model, store)
        events, paths = [Event(after, id_)], {id_: path}
    return Forecaster(events, paths, store, calendar, after, keep).open(upto)


def described(events: Sequence[Event], store: Path) -> dict[str, Any]:
    """The same of a log's events, from the bundles' manifests alone. Raises UserError."""
    from models.bundle import Refusal, read

    models = []
    for id_ in dict.fromkeys(event.model for event in events if event.model):
        path = _place(store, id_)
        manifest = read(path)
        if isinstance(manifest, Refusal):
            raise UserError(f"model {id_}: {manifest}; put the right bundle there")
        models.append(_about(manifest, path))
    return {"models": models, "events": [{"ts": event.ts, "model": event.model} for event in events]}


def _about(m: "Manifest", path: Path) -> dict[str, Any]:
    return {
        "id": m.id, "lookback": m.lookback, "horizons": list(m.horizons), "decision_horizon": m.decision_horizon,
        "trained_from": m.trained_from, "trained_upto": m.trained_upto, "synthetic": m.synthetic,
        "promotable": m.promotable, "calibrated": m.calibration.kept, "bundle": str(path.resolve()),
    }  # fmt: skip


def live_forecaster(params: forecast.Params, calendar: Calendar) -> Forecaster | None:
    """The models that a log of slices names, opened when they come; None where none is configured."""
    if params.model == NONE:
        return None
    if params.model != CHAMPION:
        raise UserError(f"forecast.model = {params.model}: live models come from the log, so that a replay has them "
                        f"too; set it to {CHAMPION}, and: utp models announce {params.model}")  # fmt: skip
    return Forecaster([], {}, Path(params.store).expanduser(), calendar, 0, None, True)


def read_history(path: Path) -> list[Event]:
    """The activations of a file, in order of time; raises UserError."""
    events = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"history of models {path}: {reason}; promote a model, or give one by its id") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = msgspec.json.decode(line, type=_Line)
            when = datetime.fromisoformat(told.from_)
        except (msgspec.DecodeError, ValueError) as error:
            raise UserError(f"{path} line {number}: {error}; want {{'from': TIME, 'model': ID}}") from error
        if when.tzinfo is None:
            raise UserError(f"{path} line {number}: {told.from_} has no time zone; write {told.from_}Z for UTC")
        events.append(Event(_ns(when), "" if told.model == NONE else told.model))
    return sorted(events, key=lambda event: event.ts)


def _champions(store: Path) -> list[Event]:
    """Every change of the registry's champion; raises UserError."""
    from models.registry import Registry

    events = [Event(_ns(datetime.fromisoformat(change.at)), change.id) for change in Registry(store).history()]
    if not events:
        raise UserError(f"forecast.model = {CHAMPION}: {store} never had one; utp models promote ID makes one")
    return sorted(events, key=lambda event: event.ts)


def _ns(when: datetime) -> int:
    """UTC ns of an aware instant, its second's begin."""
    return int(when.astimezone(UTC).replace(microsecond=0).timestamp()) * NS_PER_SECOND


def _place(store: Path, id_: str) -> Path:
    """Where a store has a bundle: in `bundles`, as the registry's does, or beside the history."""
    kept = store / "bundles" / id_
    return kept if kept.is_dir() else store / id_


class _Line(msgspec.Struct, frozen=True):
    """One activation as it is written."""

    model: str
    from_: str = msgspec.field(name="from")


def _from(events: Sequence[Event], after: int) -> list[Event]:
    """Events within the log; of those before it the last one holds from its first slice."""
    before = [event._replace(ts=after + 1) for event in events if event.ts <= after]
    return before[-1:] + [event for event in events if event.ts > after]


def _named(name: str, store: Path) -> tuple[str, Path]:
    """A model by its id in the store or its path."""
    from models.bundle import MANIFEST, Refusal, read

    for path in (_place(store, name), Path(name).expanduser()):
        if (path / MANIFEST).is_file():
            manifest = read(path)
            if isinstance(manifest, Refusal):
                raise UserError(f"forecast.model = {name}: {manifest}")
            return manifest.id, path
    there = sorted(path.parent.name for path in (*store.glob(f"*/{MANIFEST}"), *store.glob(f"bundles/*/{MANIFEST}")))
    nearest = difflib.get_close_matches(name, there, 1, 0.0)
    more = f"; the nearest in {store} is {nearest[0]}" if nearest else f"; {store} holds no bundle"
    raise UserError(f"forecast.model = {name}: no such bundle{more}")


def _words(windows: Singles, future: Singles, number: Longs) -> Any:
    """128 bits for each row of what an engine is given."""
    rows = len(windows)
    wide = windows[0].size + future[0].size if rows else 0
    given = np.zeros((rows, wide + wide % 2 + 2), np.float32)
    given[:, : windows[0].size] = windows.reshape(rows, -1)
    given[:, windows[0].size : wide] = future.reshape(rows, -1)
    words = given.view(np.uint64)
    words[:, -1] = number.astype(np.uint64)
    out = np.empty((rows, 2), np.uint64)
    fingerprint(words, out)
    return out
