"""The command; `python -m tests.mutation --help`."""

import argparse
import contextlib
import importlib
import inspect
import io
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from tests.mutation import quick  # isort: skip  (first: it turns the compiler off)

import numpy as np
import pytest

from risk import account
from tests.mutation.equivalents import EQUIVALENT, LEFT_OUT
from tests.mutation.mutants import Mutant, mutants
from tests.reference import account as reference
from tests.reference.histories import history
from tests.risk.test_account_agrees import TABLES, equal, frames, read

MODULES = (
    "risk.account", "risk.fills", "risk.exits", "risk.halts", "risk.rules", "risk.portfolio", "risk.tape",
    "broker.venue", "schemas.units",
)  # fmt: skip
EXAMPLES = ("tests/risk/test_account_examples.py", "tests/risk/test_bounds.py", "tests/broker/test_venue.py")
PATIENCE = 5.0  # seconds for one history, a few hundred times what it takes
