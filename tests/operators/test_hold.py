"""Buy and hold beside a walk over bars one by one, to the last bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.hold import Holding

CLOSES = st.sampled_from([1.0, 2.0, 3.5, 7.25, 0.0, -1.0, np.nan, np.inf])
bars = st.tuples(st.integers(0, 30), st.integers(-1, 4), CLOSES)  # instant, symbol, close


def slow(rows, instants, members):
    """The mean of last / first close of the members at each instant."""
    found = []
    for instant in instants:
        first, last = {}, {}
        for ts, symbol, close in rows:
            if ts <= instant and 0.0 < close < np.inf:
                first.setdefault(symbol, close)
                last[symbol] = close
        found.append(np.mean([last[k] / first[k] if k in first else 1.0 for k in members]))
    return found


@given(
    rows=st.lists(bars, max_size=60).map(lambda rows: sorted(rows, key=lambda row: row[0])),
    instants=st.sets(st.integers(0, 32), min_size=1).map(sorted),
    members=st.sets(st.integers(0, 4), min_size=1).map(sorted),
    cuts=st.lists(st.integers(0, 60), max_size=5).map(sorted),
)
def test_values_are_those_of_the_slow_model_however_bars_are_cut(rows, instants, members, cuts):
    wanted = np.zeros(5, np.bool_)
    wanted[members] = True
    held = Holding(np.array(instants), wanted)
    ts, symbol, close = (np.array([row[k] for row in rows], kind) for k, kind in enumerate("qif"))
    for part in np.split(np.arange(len(rows)), [cut for cut in cuts if cut <= len(rows)]):
        held.see(ts[part], symbol[part], close[part].astype(np.float64))
    assert held.values().tolist() == slow(rows, instants, members)
