"""Who may import what; and what a step must never touch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# a package -> what it may import of ours
BELOW = {
    "schemas": set(),
    "operators": {"schemas"},
    "models": {"schemas", "operators"},
    "broker": {"schemas", "operators"},
    "risk": {"schemas", "operators", "broker"},
    "infra": {"schemas", "operators", "models", "broker", "risk"},
    "dataflows": {"schemas", "operators", "models", "broker", "risk", "infra"},
}
PURE = {"operators", "risk", "broker"}
AT_THE_EDGE = {
    "operators/drive.py", "operators/kernel.py", "risk/report.py", "risk/report_run.py", "risk/report_words.py",
    "broker/alpaca.py", "broker/desk.py", "broker/exchange_server.py", "broker/repair.py", "broker/safety.py",
    "broker/submitter.py", "broker/updates.py", "broker/wire.py",
}  # in these folders, yet no steps  # fmt: skip
IMPURE = {"time", "datetime", "random", "os", "pathlib", "io", "socket", "logging", "prometheus_client", "requests",
          "secrets", "uuid", "threading"}  # fmt: skip
VAGUE = ("util", "helper", "common", "manager")


def modules():
    """Every module of the packages, as `package/name.py`."""
    return sorted(path.relative_to(ROOT).as_posix() for name in BELOW for path in (ROOT / name).rglob("*.py"))


def imported(tree):
    """Dotted names of all that is imported, anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides what it names"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield "importlib"


def breaches(module, source):
    """What a module does that its place does not allow."""
    package = module.split("/")[0]
    tree = ast.parse(source)
    found = []
    for name in sorted(set(imported(tree))):
        top = name.split(".")[0]
        if top in BELOW and top != package and top not in BELOW[package]:
            found.append(f"imports {name}")
        if top == "bytewax" and package not in {"dataflows", "infra"} and module != "operators/drive.py":
            found.append(f"imports {name}")
        if top == "numba" and module != "operators/kernel.py":
            found.append(f"imports {name}")
        if package in PURE and module not in AT_THE_EDGE and top in {*IMPURE, "importlib"}:
            found.append(f"imports {name}")
        if top == "tests":
            found.append(f"imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and package == "schemas":
            found += [
                f"kernel {node.name}"
                for d in node.decorator_list
                if "kernel" in ast.unparse(d) or "jit" in ast.unparse(d)
            ]
        if package in PURE and module not in AT_THE_EDGE:
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"open", "input", "print"}:
                found.append(f"calls {ast.unparse(node.func)}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"np.random", "numpy.random"}:
                found.append("uses np.random")
    if any(vague in part for part in Path(module).with_suffix("").parts for vague in VAGUE):
        found.append("is named by what it is not")
    return found


@pytest.mark.parametrize("module", modules())
def test_a_module_keeps_to_its_place(module):
    assert breaches(module, (ROOT / module).read_text()) == []


@pytest.mark.parametrize("path", sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("*.py")))
def test_no_test_file_is_named_by_what_it_is_not(path):
    assert not any(vague in path for vague in VAGUE)


def test_the_packages_are_those_that_are_installed():
    text = (ROOT / "pyproject.toml").read_text()
    listed = ast.literal_eval(text.split("[tool.setuptools]")[1].split("packages = ")[1].split("\n")[0])
    assert set(listed) == set(BELOW)
    assert {module.split("/")[0] for module in modules()} == set(BELOW)


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("schemas/x.py", "from operators import kernel", "imports operators"),
        ("operators/x.py", "import risk.account", "imports risk.account"),
        ("broker/x.py", "def f():\n    from risk import account", "imports risk"),
        ("models/x.py", "from broker.venue import room", "imports broker.venue"),
        ("risk/x.py", "from infra.bars import Bars", "imports infra.bars"),
        ("risk/x.py", "from models import tft", "imports models"),
        ("infra/x.py", "import dataflows", "imports dataflows"),
        ("risk/x.py", "from bytewax import operators", "imports bytewax"),
        ("operators/x.py", "if TYPE_CHECKING:\n    import bytewax.operators as op", "imports bytewax.operators"),
        ("dataflows/x.py", "from numba import njit", "imports numba"),
        ("schemas/x.py", "@kernel\ndef f(): ...", "kernel f"),
        ("schemas/x.py", "@numba.njit(cache=True)\ndef f(): ...", "kernel f"),
        ("operators/x.py", "import time", "imports time"),
        ("risk/x.py", "from datetime import datetime", "imports datetime"),
        ("broker/x.py", "import os.path", "imports os.path"),
        ("operators/x.py", "m = importlib.import_module('time')", "imports importlib"),
        ("operators/x.py", "with open(name) as f: ...", "calls open"),
        ("risk/x.py", "rng = np.random.default_rng()", "uses np.random"),
        ("infra/x.py", "from tests.markets import make", "imports tests.markets"),
        ("infra/bar_utils.py", "", "is named by what it is not"),
        ("operators/helpers/x.py", "", "is named by what it is not"),
    ],
)
def test_a_breach_is_seen(module, source, breach):
    assert breach in breaches(module, source)


def test_what_is_allowed_is_not_seen():
    assert breaches("dataflows/x.py", "import bytewax, risk, models, infra, time, os") == []
    assert breaches("operators/kernel.py", "import os\nfrom numba import njit") == []
    assert breaches("operators/drive.py", "import bytewax.operators as op") == []
    assert breaches("risk/report.py", "from pathlib import Path\nfrom datetime import datetime") == []
    assert breaches("risk/x.py", "from broker import venue\nfrom operators.kernel import kernel") == []


# Runs code in a process of its own and prints which of the named packages it tried to import.
WATCH = """
import sys

class Watch:
    asked = set()

    def find_spec(self, name, path=None, target=None):
        self.asked.add(name.split(".")[0])

sys.meta_path.insert(0, Watch())
{code}
print(sorted(Watch.asked & {names!r}))
"""


def asked_for(code, names):
    script = WATCH.format(code=code, names=names)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_replay_needs_no_bytewax():
    code = """
from dataflows import pipeline
from infra.settings import Settings
from tests.markets import make
market, settings = make(1, sessions=2), Settings()
ledgers = list(pipeline.run(market.chunks(), pipeline.decide_params(settings, 30), settings.account, market.after))
assert sum(ledger.equity.size for ledger in ledgers) == market.slices.size > 0
"""
    assert asked_for(code, {"bytewax"}) == "[]"


def test_a_backtest_needs_no_training_libraries():
    names = {"torch", "mlflow", "lightning", "pytorch_forecasting", "onnx", "onnxruntime"}
    assert asked_for("import dataflows.backtest, dataflows.cli", names) == "[]"


def test_a_backtest_of_a_file_needs_no_pandas(tmp_path):
    """They were 46 MB in each process, and half a second before its first frame."""
    code = f"""
from pathlib import Path
from dataflows import backtest
from infra.settings import load
from infra.synthetic import write_parquet
write_parquet(Path({str(tmp_path)!r}) / "bars.parquet", "synthetic:symbols=2,days=2,seed=1")
"""
    asked_for(code, set())
    run = f"""
from pathlib import Path
from dataflows import backtest
from infra.settings import load
folder = Path({str(tmp_path)!r})
backtest.run(backtest.plan(str(folder / "bars.parquet"), load(None), folder / "run"))
"""
    assert asked_for(run, {"pandas", "exchange_calendars"}) == "[]"


def test_an_import_is_seen_even_where_the_package_is_missing():
    code = """
try:
    import torch.nn
except ImportError:
    pass
import bytewax
"""
    assert asked_for(code, {"bytewax", "torch", "mlflow"}) == "['bytewax', 'torch']"
