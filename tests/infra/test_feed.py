import itertools

import pytest

from infra.bars import open_bars
from infra.feed import Disorder, PacedFeed, Part, Place, Received, played
from operators.slicer import Params, start, step
from schemas.frames import SHARDS
from schemas.units import NS_PER_SECOND

GRACE = 5 * NS_PER_SECOND
BARS = open_bars("synthetic:symbols=9,days=2,seed=3,timeframe=30m")
SOME = Disorder(seed=4, jitter_seconds=3.0, late=0.1, missing=0.1, repeated=0.1)


def everything(disorder=SOME, first=0):
    return [[one for _, one in slice_] for slice_ in played(BARS, GRACE, disorder, first)]


def test_a_quiet_feed_delivers_every_bar_in_its_slice():
    """Through the slicer, shard by shard, the slices are those of the file."""
    records = [one for slice_ in everything(Disorder()) for one in slice_]
    names = frozenset(BARS.universe.names)
    rows = 0
    for shard in range(SHARDS):
        own = [one.arrival for one in records if one.partition == shard]
        params = Params(BARS.calendar, GRACE, names, names)
        _, (closed, turned) = step(params, start(shard), own)
        assert turned == []
        begin = BARS.calendar.index_after(BARS.after)
        assert [one.ts for one in closed] == [BARS.calendar.ts_at(begin + k) for k in range(BARS.slices)]
        rows += sum(len(one.bars) for one in closed)
    assert rows == BARS.rows


def test_the_disorder_is_the_same_again_and_as_large_as_asked():
    once = everything()
    assert once == everything()
    bars = [one for slice_ in once for one in slice_ if one.arrival.symbol]
    share = len({one.id for one in bars if not one.id.endswith(":again")}) / BARS.rows
    assert 0.85 < share < 0.95
    assert 0.05 < sum(one.id.endswith(":again") for one in bars) / BARS.rows < 0.15
    late = 0
    for slice_ in once:
        over = max(k for k, one in enumerate(slice_) if one.id.endswith(":over"))
        late += sum(1 for one in slice_[over:] if one.arrival.symbol)
    assert 0.05 < late / BARS.rows < 0.2


def test_every_record_has_an_id_of_its_own_in_its_partition():
    records = [(one.partition, one.id) for slice_ in everything() for one in slice_]
    assert len(records) == len(set(records))


@pytest.mark.parametrize("first", [0, 1, 14, 25])
def test_a_feed_goes_on_where_its_snapshot_says(first):
    rest = everything(first=first)
    whole = everything()
    assert rest[0 if first else 1 :] == whole[first if first else 1 :]
    feed = PacedFeed(BARS, 0.0, GRACE, SOME)
    part = feed.build_part("step", "feed", (first, 3))
    sent = list(itertools.chain.from_iterable(drained(part)))
    assert sent == [*whole[first][3:], *itertools.chain.from_iterable(whole[first + 1 :])]


def drained(part):
    while True:
        try:
            yield part.next_batch()
        except StopIteration:
            return


def test_the_pace_is_kept_and_taken_up_again():
    clock = [100.0]
    slices = [[(0.0, received("a")), (2.0, received("b"))], [(0.0, received("c"))]]
    part = Part(iter(slices), Place(0, 0), 60.0, 10.0, lambda: clock[0])
    assert [one.id for one in part.next_batch()] == ["a"]
    assert part.next_awake() is not None
    clock[0] += 0.19
    assert part.next_batch() == []
    clock[0] += 0.02
    assert [one.id for one in part.next_batch()] == ["b"]
    assert part.snapshot() == (1, 0)
    clock[0] += 5.0
    assert part.next_batch() == []
    clock[0] += 1.0
    assert [one.id for one in part.next_batch()] == ["c"]
    again = Part(iter(slices[1:]), Place(1, 0), 60.0, 10.0, lambda: clock[0])
    assert [one.id for one in again.next_batch()] == ["c"]


def received(name):
    return Received(0, name, None)
