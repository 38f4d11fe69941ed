"""`utp bench`: how fast it is, beside how fast it should be.

Each measurement runs in a fresh process. Rates are per CPU-second, so that other load on the machine
matters little; a median and the best of several repetitions are kept, and goals are held against the median.
"""

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from dataflows import bench_forecast
from dataflows.bench_measures import STAGES, Market, bars_of

Progress = Callable[[str], None]
Answer = dict[str, Any]


class Size(msgspec.Struct, frozen=True):
    """A market of one-minute bars, and what is wanted of it."""

    symbols: int
    days: int
    rate: float  # bars per CPU-second, at least
    trades: int  # round trips, at least
    # Repetitions: so many that neither the first ones decide, which touch fresh memory, nor a neighbour's few seconds.
    times: int
    share_of_bare: float = 0.0  # of the bare loop's rate, at least

    @property
    def market(self) -> Market:
        """As the measurements want it."""
        return [self.symbols, self.days]


SIZES = {
    "A": Size(1, 252, 2e6, 1_000, 45),
    "B": Size(20, 60, 4e6, 5_000, 45),
    "C": Size(100, 60, 4e6, 25_000, 11, 0.1),
}
WIDE = {100: 24, 1_000: 4, 5_000: 2}  # days by symbols, to see whether a bar costs the same


class Line(msgspec.Struct, frozen=True):
    """One number, its goal (`>=` or `<=` a bound) and whether it is reached."""

    group: str
    name: str
    unit: str
    value: float
    best: float | None = None
    sign: str = ""
    bound: float = 0.0

    @property
    def reached(self) -> bool | None:
        """None without a goal."""
        if not self.sign:
            return None
        return self.value >= self.bound if self.sign == ">=" else self.value <= self.bound


def run(names: Sequence[str] = (), *, quick: bool = False, progress: Progress = lambda _: None) -> list[Line]:
    """All of it, or only the throughput of the named sizes."""
    progress("markets")
    for size in SIZES.values():
        bars_of(size.market)
    lines: list[Line] = []
    for name in names or SIZES:
        progress(f"size {name}")
        lines += throughput(name, SIZES[name], 2 if quick else SIZES[name].times)
    if names:
        return lines
    from dataflows import bench_log  # its lines are ours

    few, pairs, triples = (1, 2, 2) if quick else (3, 25, 15)
    largest = SIZES["C"].market
    parts: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("feature kernels", lambda: of_kernels([100, 20], few)),
        ("recovery", lambda: of_recovery(largest, pairs)),
        ("two processes", lambda: of_processes(largest, triples)),
        ("many symbols", lambda: of_width(WIDE, few)),
        ("memory", lambda: of_memory(largest, [largest[0], 3 * largest[1]])),
        ("start", lambda: of_start(SIZES["B"].market, 2 if quick else 5)),
        ("live shape", lambda: of_live([100, 5])),
        ("forecasts", lambda: bench_forecast.lines(few)),
        ("the log", lambda: bench_log.lines(quick)),
    ]
    for label, part in parts:
        progress(label)
        lines += part()
    return lines


# What is measured.


def throughput(name: str, size: Size, times: int) -> Iterator[Line]:
    """Bars per CPU-second, by stage, and against the bare loop."""
    group = f"{name}: {size.symbols} × {size.days} days"
    answer = measure("flow", market=size.market, times=times)
    rates = [answer["rows"] / cpu for cpu in answer["cpu"]]
    bare = answer["rows"] / statistics.median(answer["bare_cpu"])
    yield Line(group, "dataflow", "bars/CPU-s", statistics.median(rates), max(rates), ">=", size.rate)
    yield Line(group, "round trips", "", answer["trades"], None, ">=", size.trades)
    sign = ">=" if size.share_of_bare else ""
    share = statistics.median(rates) / bare
    yield Line(group, "share of the bare loop's rate", "", share, max(rates) / bare, sign, size.share_of_bare)
    yield Line(group, "bare loop", "bars/CPU-s", bare, answer["rows"] / min(answer["bare_cpu"]))
    yield from of_stages(group, size.market, times)


def of_stages(group: str, market: Market, times: int) -> Iterator[Line]:
    """Shares of a plain loop's time."""
    spent = measure("stages", market=market, times=times)["stages"]
    middle = sorted(spent, key=lambda run: sum(run.values()))[len(spent) // 2]
    total = sum(middle.values())
    for stage in STAGES:
        reading = stage == "read+split"
        yield Line(group, stage, "share", middle[stage] / total, None, "<=" if reading else "", 1 / 3 if reading else 0)


def of_kernels(market: Market, times: int) -> Iterator[Line]:
    """Bar-symbols per CPU-second of the features."""
    answer = measure("kernels", market=market, times=times)
    for name, key, goal in (("that alphas and rules need", "needed_cpu", 10e6), ("the whole set", "all_cpu", 3e6)):
        rates = [answer["rows"] / cpu for cpu in answer[key]]
        yield Line("features", name, "bars/CPU-s", statistics.median(rates), max(rates), ">=", goal)


def of_recovery(market: Market, times: int) -> Iterator[Line]:
    """CPU-seconds with recovery over those without."""
    answer = measure("recovery", market=market, times=times)
    ratios = [on / off for on, off in zip(answer["on_cpu"], answer["off_cpu"], strict=True)]
    yield Line("recovery", "on / off", "×", statistics.median(ratios), min(ratios), "<=", 1.1)
    yield Line("recovery", "epochs", "", min(answer["epochs"]), None, ">=", 6)


def of_processes(market: Market, times: int) -> Iterator[Line]:
    """Seconds of one process over those of two, on one host; in turns.

    And what the host allows: two runs that have nothing to do with each other share its caches and its memory, too.
    """
    one, two, apart = [], [], []
    for _ in range(times):
        one.append(_cluster(market, 1))
        two.append(_cluster(market, 2))
        apart.append(_cluster(market, 2, apart=True))
    alone = statistics.median(one)
    yield Line("two processes", "one / two, wall", "×", alone / statistics.median(two), min(one) / min(two), ">=", 1.6)
    most = 2 * alone / statistics.median(apart), 2 * min(one) / min(apart)
    yield Line("two processes", "two runs one by one / at once, wall", "×", *most)


def of_width(days: Mapping[int, int], times: int) -> Iterator[Line]:
    """Nanoseconds of CPU per bar, for few and for many symbols."""
    costs = []
    for symbols, sessions in days.items():
        answer = measure("flow", market=[symbols, sessions], times=times)
        cost = [1e9 * cpu / answer["rows"] for cpu in answer["cpu"]]
        costs.append(statistics.median(cost))
        yield Line("width", f"{symbols:,} symbols × {sessions} days", "ns/bar", costs[-1], min(cost))
    yield Line("width", "dearest / cheapest", "×", max(costs) / min(costs), None, "<=", 1.5)


def of_memory(market: Market, longer: Market) -> Iterator[Line]:
    """Peak memory, and whether it depends on the number of days."""
    for each in (market, longer):
        bars_of(each)  # made here, if it has to be: that takes memory, too
    short, long = (measure("memory", market=each)["mb"] for each in (market, longer))
    yield Line("memory", f"{market[0]} × {market[1]} days", "MB", short, None, "<=", 400)
    yield Line("memory", f"{longer[0]} × {longer[1]} days", "MB", long, None, "<=", 400)
    yield Line("memory", "long / short", "×", long / short, None, "<=", 1.1)


def of_start(market: Market, times: int) -> Iterator[Line]:
    """Seconds until something happens."""
    waits = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.time()
            waits.append(measure("first_frame", market=market, out=f"{folder}/run")["at"] - begun)
    yield Line("start", "to the first frame", "s", statistics.median(waits), min(waits), "<=", 3.0)
    waits = []
    for _ in range(times):
        begun = time.time()
        subprocess.run([*_program(), "--help"], check=True, capture_output=True)  # noqa: S603  (our own program)
        waits.append(time.time() - begun)
    yield Line("start", "utp --help", "s", statistics.median(waits), min(waits), "<=", 0.5)


def of_live(market: Market) -> Iterator[Line]:
    """From a slice's bars to its orders, in process."""
    answer = measure("live", market=market)
    yield Line("live shape", "p50", "ms", answer["p50_ms"], None, "<=", 1.0)
    yield Line("live shape", "p99", "ms", answer["p99_ms"], None, "<=", 10.0)
    yield Line("live shape", "worst", "ms", answer["worst_ms"])


# Processes.


def measure(what: str, **asked: Any) -> Answer:
    """The answer of one measurement in a fresh process."""
    with _process(what, asked) as process:
        text, _ = process.communicate()
    return _answer(process, what, text)


def _cluster(market: Market, processes: int, *, apart: bool = False) -> float:
    """Seconds that a run takes, from when the last of its processes was told to begin, all being ready.

    `apart`: so many runs of one process instead.
    """
    addresses = _free_addresses(processes) if processes > 1 and not apart else []
    with tempfile.TemporaryDirectory() as folder:
        places = [(f"run{k}", 0) if apart else ("run", k) for k in range(processes)]
        asked = [{"market": market, "out": str(Path(folder) / name), "addresses": addresses, "place": place}
                 for name, place in places]  # fmt: skip
        members = [_process("member", each) for each in asked]
        for each in members:
            cast(IO[str], each.stdout).readline()
        for k, each in enumerate(members):
            cast(IO[str], each.stdin).write("\n")
            cast(IO[str], each.stdin).flush()
            if addresses and not k:  # who asks for it before it listens rests for a second, which is Bytewax's start
                _wait_for(addresses[0])
        texts = [each.communicate()[0] for each in members]
    told = [_answer(*pair) for pair in zip(members, ["member"] * processes, texts, strict=True)]
    return float(max(each["ended"] for each in told) - max(each["begun"] for each in told))


def _wait_for(address: str) -> None:
    """Until somebody listens there; asking at the port itself would pass for one of the processes."""
    wanted = f":{int(address.rpartition(':')[2]):04X} 00000000:0000 0A"
    while wanted not in Path("/proc/net/tcp").read_text():
        time.sleep(0.0005)


def _process(what: str, asked: Mapping[str, Any]) -> "subprocess.Popen[str]":
    call = [sys.executable, "-m", "dataflows.bench_measures", json.dumps({"what": what, **asked})]
    return subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _answer(process: "subprocess.Popen[str]", what: str, text: str) -> Answer:
    if process.returncode:
        raise RuntimeError(f"bench: {what} ended with {process.returncode}; what it said stands above")
    answer: Answer = json.loads(text.strip().splitlines()[-1])
    return answer


def _free_addresses(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def _program() -> list[str]:
    beside = Path(sys.executable).with_name("utp")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "dataflows.cli"]


# What is shown.


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the program."""
    model = platform.processor() or platform.machine()
    try:
        found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = found[0].partition(":")[2].strip() if found else model
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numba", "numpy", "pyarrow", "bytewax")},
    }


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """Machine-readable: the same as the table."""
    return {
        "machine": machine(),
        "lines": [{**msgspec.to_builtins(line), "reached": line.reached} for line in lines],
    }


def shown(line: Line, value: float | None) -> str:
    """A number of this line, with as many digits as it deserves."""
    if value is None:
        return ""
    if line.unit == "bars/CPU-s":
        return f"{value / 1e6:.2f} M"
    if line.unit == "share":
        return f"{value:.1%}"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def goal(line: Line) -> str:
    """`≥ 2.00 M`, or nothing."""
    return f"{'≥' if line.sign == '>=' else '≤'} {shown(line, line.bound)}" if line.sign else ""
