"""Forecasts in `utp bench`: what a window, an answer and a kept answer cost, and what serving adds to a process.

    python -m dataflows.bench_forecast '{"what": "rows", "times": 3}'

prints its answer as one line of JSON. The model is that of the demonstration, `make train-demo`; CPU-seconds are
those of the whole process.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from infra.bars import open_bars

MODEL = Path(__file__).resolve().parents[1] / "demo" / "model"
BARS = "synthetic:symbols=20,days=20,seed=7"
BATCH, WINDOWS = 512, 40_000  # of the loader: as many at a time as training takes; in all
ROWS = 2_000  # forecasts
Answer = dict[str, list[float]]


def lines(times: int) -> Iterator[Any]:
    """The measurements as lines of the table; without the demonstration's model the loader's alone."""
    from dataflows.bench import Line

    def median(what: str, name: str) -> float:
        return float(np.median(found[what][name]))

    wanted = ["loader", *(["rows", "serving", "kept"] if (MODEL / "manifest.json").exists() else [])]
    found = {what: _measured(what, times) for what in wanted}
    group = "forecasts"
    yield Line(group, "windows gathered", "/CPU-s", median("loader", "windows"), max(found["loader"]["windows"]),
               ">=", 100_000.0)  # fmt: skip
    yield Line(group, "windows with what is known ahead", "/CPU-s", median("loader", "both"),
               max(found["loader"]["both"]), ">=", 100_000.0)  # fmt: skip
    if len(wanted) == 1:
        return
    yield Line(group, "one row of the small model", "ms", median("rows", "ms"), min(found["rows"]["ms"]), "<=", 1.0)
    yield Line(group, "memory that serving adds", "MB", median("serving", "mb"), min(found["serving"]["mb"]),
               "<=", 150.0)  # fmt: skip
    yield Line(group, "import of what serves, CPU", "s", median("serving", "seconds"), min(found["serving"]["seconds"]),
               "<=", 0.5)  # fmt: skip
    yield Line(group, "made / kept, CPU of a forecast", "×", median("kept", "ratio"), max(found["kept"]["ratio"]),
               ">=", 50.0)  # fmt: skip


def _measured(what: str, times: int) -> Answer:
    call = [sys.executable, "-m", "dataflows.bench_forecast", json.dumps({"what": what, "times": times})]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"bench: {what} ended with {done.returncode}; what it said stands above")
    answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


# Each runs in a process of its own.


def loader(times: int) -> Answer:
    """Windows of the contracts' length and features, in the order of training: at random."""
    from models.dataset import build
    from models.training import Data

    bars = open_bars(BARS)
    ds = build(Data(every=1), bars.calendar, bars.frames(), bars.rows)
    order = np.random.default_rng(1).choice(len(ds), WINDOWS)

    def gather(ahead: bool) -> None:
        for begin in range(0, WINDOWS, BATCH):
            which = order[begin : begin + BATCH]
            ds.windows(which)
            if ahead:
                ds.future(which)

    return {name: [WINDOWS / _cpu(gather, ahead) for _ in range(times)]
            for name, ahead in (("windows", False), ("both", True))}  # fmt: skip


def rows(times: int) -> Answer:
    """A row at a call, as the dataflow asks; milliseconds of CPU."""
    from models.engine import Engine

    engine = Engine.open(MODEL)
    windows, future, who = _sample(ROWS)
    engine.forecast(windows[:100], future[:100], who[:100])
    return {"ms": [1_000 * _cpu(engine.forecast, windows, future, who) / ROWS for _ in range(times)]}


def serving(times: int) -> Answer:
    """What the first forecasts add to a process that is ready to run a backtest without them, each in a fresh one."""
    code = f"""
import time
from dataflows import backtest
from dataflows.bench_forecast import resident
before, begun = resident(), time.process_time()
import models.engine
seconds = time.process_time() - begun
import numpy as np
from dataflows.bench_forecast import MODEL, _sample
engine = models.engine.Engine.open(MODEL)
engine.forecast(*_sample({ROWS}))
print(seconds, resident() - before)
"""
    told = [
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.split()  # noqa: S603
        for _ in range(times)
    ]
    return {"seconds": [float(one) for one, _ in told], "mb": [float(one) / 1e6 for _, one in told]}


def kept(times: int) -> Answer:
    """The same forecasts as a step asks for them: computed, and read by a forecaster that finds them kept."""
    from infra.forecaster import Event, Forecaster
    from models.bundle import Manifest, read

    manifest = read(MODEL)
    assert isinstance(manifest, Manifest)  # noqa: S101  (`rows` has opened it)
    bars = open_bars(BARS)
    windows, _, _ = _sample(ROWS)
    windows += np.arange(ROWS, dtype=np.float32)[:, None, None] * 1e-6  # no two alike
    names, ts = np.full(ROWS, b"SYN000", "S24"), np.repeat(bars.calendar.closes[300:301], ROWS)

    def served(folder: Path) -> Forecaster:
        return Forecaster([Event(0, manifest.id)], {manifest.id: MODEL}, MODEL, bars.calendar, 0, folder).open(1)

    ratios = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as name:
            first = served(Path(name))
            made = _cpu(first.forecast, manifest.id, names, ts, windows)
            first.close()
            second = served(Path(name))
            read_ = _cpu(second.forecast, manifest.id, names, ts, windows)
            assert (first.computed, second.reused) == (ROWS, ROWS)  # noqa: S101
            ratios.append(made / read_)
    return {"ratio": ratios}


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _sample(count: int) -> tuple[Any, Any, Any]:
    """The bundle's own sample, repeated."""
    with np.load(MODEL / "sample.npz") as sample:
        windows, future, who = (sample[name] for name in ("features", "future", "symbol"))
    which = np.arange(count) % len(windows)
    return windows[which], future[which], who[which]


def _cpu(work: Callable[..., Any], *given: Any) -> float:
    begun = time.process_time()
    work(*given)
    return time.process_time() - begun


MEASURES: dict[str, Callable[[int], Answer]] = {"loader": loader, "rows": rows, "serving": serving, "kept": kept}

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(MEASURES[asked["what"]](asked["times"])))
