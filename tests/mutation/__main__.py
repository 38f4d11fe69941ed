"""The command; `python -m tests.mutation --help`."""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from tests.mutation import quick  # isort: skip  (first: it turns the compiler off)

import numpy as np
import pytest

from tests.mutation.equivalents import EQUIVALENT, LEFT_OUT, why
from tests.mutation.mutants import Mutant, mutants
from tests.reference import account as reference
from tests.reference.histories import history
from tests.risk.test_account_agrees import TABLES, equal, run

MODULES = (
    "risk.account", "risk.fills", "risk.exits", "risk.halts", "risk.rules", "risk.portfolio", "risk.tape",
    "risk.actions", "risk.returns", "risk.commands", "risk.reports", "broker.venue", "schemas.units",
)  # fmt: skip
EXAMPLES = (
    "tests/risk/test_account_examples.py", "tests/risk/test_acceptance.py", "tests/broker/test_venue.py",
    "tests/risk/test_bounds.py", "tests/risk/test_closes.py", "tests/risk/test_actions.py",
    "tests/risk/test_stock.py",
)  # fmt: skip
# what a broker reports has examples and rough histories of its own; quick ones first
AT_BROKER = "risk.reports"
BROKER_EXAMPLES = ("tests/risk/test_reports.py",)
BROKER_PARTS = ("not any_history and not compiled and not simulation and not whatever", "whatever_a_broker_does")
SLOW = "not three_thousand and not any_history and not a_crowd and not at_every_verdict"  # histories do it
PYTEST = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-k")
PATIENCE = 2.0  # seconds for one history, some hundred times what it takes


class NoEnd(BaseException):
    """A mutant runs on and on."""


@dataclass
class Told:
    """A history and what the reference makes of it."""

    seed: int
    params: Any
    slices: list[reference.Slice]
    ledger: reference.Ledger

    def agrees(self) -> bool:
        """Whether the account, as it is now, writes the same ledger."""
        try:
            with patience(PATIENCE):
                found = run(self.params, self.slices, [self.seed % 7, self.seed % 11])
        except (Exception, NoEnd):
            return False
        return same(found, self.ledger)


def same(found: reference.Ledger, wanted: reference.Ledger) -> bool:
    for kind in TABLES:
        ours, theirs = getattr(found, kind), getattr(wanted, kind)
        if len(ours) != len(theirs) or not all(map(equal, ours, theirs)):
            return False
    return found.funds == {name: wanted.funds[name] for name in found.funds}


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raise NoEnd when it takes longer."""

    def stop(*_: object) -> None:
        raise NoEnd

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


# What the worker processes inherit. Histories that killed last stand first in each of them.
ASKED: list[Mutant] = []
TELLING: list[Told] = []
FUNCTIONS: dict[str, FunctionType] = {}


def functions(module: ModuleType) -> list[FunctionType]:
    """The functions that a module defines."""
    found = [f for f in vars(module).values() if isinstance(f, FunctionType)]
    found += [quick.loop] if module is quick.account else []
    own = [f for f in found if f.__module__ == module.__name__]
    return [f for f in own if f"{module.__name__}.{f.__name__}" not in LEFT_OUT]


def verdict(mutant: Mutant) -> str:
    """What killed it, or an empty word."""
    function = FUNCTIONS[mutant.place]
    sound, function.__code__ = function.__code__, mutant.code
    try:
        if not mutant.place.startswith(AT_BROKER):
            for k, told in enumerate(TELLING):
                if not told.agrees():
                    TELLING.insert(0, TELLING.pop(k))
                    return "histories"
            if not examples_pass():
                return "examples"
        parts = zip(("a broker's examples", "rough histories"), BROKER_PARTS, strict=True)  # some is only used there
        return next((name for name, part in parts if not examples_pass(BROKER_EXAMPLES, part)), "")
    finally:
        function.__code__ = sound


def examples_pass(files: tuple[str, ...] = EXAMPLES, part: str = SLOW) -> bool:
    """Whether the example tests pass, in a process of their own that may be ended."""
    child = os.fork()
    if child == 0:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                with patience(120.0 * PATIENCE):
                    code = pytest.main([*PYTEST, part, *files])
            except BaseException:
                code = 1
        os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def judged(k: int) -> tuple[int, str]:
    return k, verdict(ASKED[k])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=sys.modules["tests.mutation"].__doc__)
    parser.add_argument("--module", action="append", help=f"one of {', '.join(MODULES)}; may be repeated")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--histories", type=int, default=800, help="generated histories for each mutant")
    parser.add_argument("--sample", type=int, help="only so many mutants, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--check", action="store_true", help="only whether it would work: listed ones are made, histories agree"
    )
    parser.add_argument("--listed", action="store_true", help="only the listed equivalents; fails if one is killed")
    options = parser.parse_args()
    began = time.monotonic()
    np.seterr(all="ignore")

    found: list[Mutant] = []
    for module in map(importlib.import_module, options.module or MODULES):
        for function in functions(module):
            FUNCTIONS[f"{module.__name__}.{function.__name__}"] = function
            found += mutants(module, function)
    listed = [bool(why(one.place, one.before, one.after)) for one in found]
    ASKED[:] = [one for one, known in zip(found, listed, strict=True) if known == options.listed]
    told = {(one.place, one.before, one.after) for one in found}
    told |= {(place.rpartition(".")[0], before, after) for place, before, after in told}
    stale = [
        (one.place, after) for one in EQUIVALENT for after in one.after if (one.place, one.before, after) not in told
    ]
    if stale and not options.module:
        print("listed, but no longer made:", *(f"  {place}: {after}" for place, after in stale), sep="\n")
        return 2
    if options.sample is not None:
        ASKED[:] = random.Random(options.seed).sample(ASKED, min(options.sample, len(ASKED)))

    for seed in range(options.histories):
        params, slices = history(seed)
        TELLING.append(Told(seed, params, slices, reference.run(params, slices)))
    if not all(told.agrees() for told in TELLING):
        print("The account disagrees with the reference before anything was changed; see tests/risk.")
        return 2
    if options.check:
        print(f"{len(found)} mutants, {sum(listed)} of them listed as equivalent")
        return 0
    if not examples_pass():
        print(f"Without a compiler the examples fail before anything was changed: {', '.join(EXAMPLES)}")
        return 2
    if not all(examples_pass(BROKER_EXAMPLES, part) for part in BROKER_PARTS):
        print(f"Without a compiler the examples fail before anything was changed: {', '.join(BROKER_EXAMPLES)}")
        return 2

    print(f"{len(found)} mutants, {sum(listed)} of them listed as equivalent; {len(ASKED)} to run", flush=True)
    killers = Counter[str]()
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for k, killer in pool.imap_unordered(judged, range(len(ASKED)), chunksize=8):
            killers[killer] += 1
            if bool(killer) == options.listed:  # a survivor, or one that should have survived
                one = ASKED[k]
                print(f"{one.file}:{one.line} {one.place}\n  - {one.before}\n  + {one.after}", flush=True)
    survived = killers.pop("", 0)
    took = time.monotonic() - began
    print(f"killed: {dict(killers)}; survived: {survived}; {took:.0f} s, {options.histories} histories each")
    return int(killers.total() > 0 if options.listed else survived > 0)


if __name__ == "__main__":
    sys.exit(main())
