import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import guard
from broker.guard import Breaker, Exposure, Params, State
from broker.port import ExecutionReport
from schemas.events import Leg, Reason, Side
from tests.broker.rooms import entry, exit_

S = 1_000_000_000
NONE = Exposure(0, {}, 0)
FREE = Params(cooldown_seconds=0, max_orders_per_symbol_per_day=1_000, max_orders_per_minute=1_000)


def sent(params, times, symbol="AAPL", session=1):
    state = State()
    for ts in times:
        state = guard.sent(state, entry(symbol=symbol), ts, session)
    return state


def reason(params, state=None, order=None, exposure=NONE, now=1_000 * S, session=1):
    found = guard.objection(params, state or State(), order or entry(), exposure, now, session)
    return found and found.reason


def test_nothing_stands_against_a_small_first_entry():
    assert reason(Params()) is None


def test_orders_per_minute_at_exactly_the_limit():
    params = Params(max_orders_per_minute=2, cooldown_seconds=0, max_orders_per_symbol_per_day=9)
    assert reason(params, sent(params, [990 * S])) is None
    assert reason(params, sent(params, [980 * S, 990 * S])) is Reason.ORDERS_PER_MINUTE
    assert reason(params, sent(params, [940 * S, 990 * S])) is None  # a minute ago is past


def test_orders_per_symbol_and_day_at_exactly_the_limit():
    params = Params(max_orders_per_symbol_per_day=2, cooldown_seconds=0)
    assert reason(params, sent(params, [1 * S])) is None
    assert reason(params, sent(params, [1 * S, 2 * S])) is Reason.ORDERS_PER_SYMBOL
    assert reason(params, sent(params, [1 * S, 2 * S]), session=2) is None
    assert reason(params, sent(params, [1 * S, 2 * S], symbol="MSFT")) is None


def test_cooldown_at_exactly_the_limit():
    params = Params(cooldown_seconds=10)
    assert reason(params, sent(params, [991 * S])) is Reason.COOLDOWN
    assert reason(params, sent(params, [990 * S])) is None
    assert reason(params, sent(params, [991 * S], symbol="MSFT")) is None


def test_open_orders_at_exactly_the_limit():
    assert reason(Params(max_open_orders=3), exposure=Exposure(0, {}, 2)) is None
    assert reason(Params(max_open_orders=3), exposure=Exposure(0, {}, 3)) is Reason.OPEN_ORDERS


@pytest.mark.parametrize(
    ("params", "exposure", "expected"),
    [
        (Params(max_notional_usd=950.0), NONE, None),
        (Params(max_notional_usd=949.99), NONE, Reason.POSITION_CAPACITY),
        (Params(max_shares=5), NONE, None),
        (Params(max_shares=4), NONE, Reason.POSITION_CAPACITY),
        (Params(max_total_exposure_usd=1_950.0), Exposure(10_000_000, {}, 0), None),
        (Params(max_total_exposure_usd=1_949.99), Exposure(10_000_000, {}, 0), Reason.TOTAL_EXPOSURE),
        (Params(max_symbol_exposure_usd=1_950.0), Exposure(0, {"AAPL": 10_000_000}, 0), None),
        (Params(max_symbol_exposure_usd=1_949.99), Exposure(0, {"AAPL": 10_000_000}, 0), Reason.SYMBOL_EXPOSURE),
        (Params(max_symbol_exposure_usd=1_000.0), Exposure(0, {"MSFT": 10_000_000}, 0), None),
    ],
)
def test_caps_hold_to_the_cent(params, exposure, expected):
    assert reason(params, exposure=exposure) is expected


def test_no_price_no_order():
    order = entry()
    naked = type(order)(order.id, order.symbol, order.side, order.qty, order.leg, order.kind, 0, 2, 1)
    assert reason(Params(), order=naked) is Reason.STATE_UNKNOWN


def test_what_reduces_passes_everything():
    state = State(tuple((999 * S, 1, "AAPL") for _ in range(50)), paused_until=10**18)
    tight = Params(max_notional_usd=0.01, max_shares=1)
    assert reason(tight, state, exit_(), Exposure(10**15, {"AAPL": 10**15}, 99)) is None
    assert guard.sent(state, exit_(), 0, 1) is state


def report(side, qty, price):
    return ExecutionReport("i", 0, "o", "b", "AAPL", side, Leg.ENTRY, "filled", qty, qty * price, qty, qty * price)


@pytest.mark.parametrize(
    ("side", "price", "pauses"),
    [
        (Side.BUY, 1_001_500, False),  # exactly three times 5 bps
        (Side.BUY, 1_001_501, True),
        (Side.BUY, 990_000, False),
        (Side.SELL, 998_500, False),
        (Side.SELL, 998_499, True),
        (Side.SELL, 1_010_000, False),
    ],
)
def test_a_dear_fill_pauses_entries(side, price, pauses):
    state = guard.filled(Params(), State(), report(side, 10, price), 1_000_000, 1_000 * S)
    assert (reason(FREE, state) is Reason.SLIPPAGE_GUARD) == pauses
    assert reason(FREE, state, now=1_000 * S + 30 * 60 * S) is None


def test_days_past_are_forgotten():
    state = sent(FREE, [1, 2, 3], session=1)
    later = guard.sent(state, entry(), 90_000 * S, 2)
    assert later.sent == ((90_000 * S, 2, "AAPL"),)


def test_the_breaker_opens_at_the_fifth_failure_within_a_minute():
    params, breaker = Params(), Breaker()
    for k in range(4):
        breaker = guard.failed(params, breaker, k * S)
        assert guard.passes(params, breaker, k * S)[0]
    assert not guard.passes(params, guard.failed(params, breaker, 5 * S), 5 * S)[0]
    assert guard.passes(params, guard.failed(params, breaker, 60 * S), 60 * S)[0]  # the first is a minute old


def test_an_open_breaker_lets_one_probe_through():
    params = Params(breaker_failures=1)
    breaker = guard.failed(params, Breaker(), 0)
    assert guard.passes(params, breaker, 30 * S - 1) == (False, breaker)
    allowed, probing = guard.passes(params, breaker, 30 * S)
    assert allowed
    assert not guard.passes(params, probing, 31 * S)[0]
    assert guard.passes(params, probing, 60 * S)[0]  # the probe was lost: another
    assert guard.answered(probing) == Breaker()
    reopened = guard.failed(params, probing, 35 * S)
    assert not guard.passes(params, reopened, 64 * S)[0]
    assert guard.passes(params, reopened, 65 * S)[0]


def test_an_answer_between_failures_does_not_forgive_them():
    params = Params(breaker_failures=2)
    breaker = guard.answered(guard.failed(params, Breaker(), 0))
    assert not guard.passes(params, guard.failed(params, breaker, 1), 1)[0]


@given(st.integers(0, 10_000), st.floats(0.0, 1.0, exclude_max=True))
def test_back_off_stays_between_nothing_and_its_cap(attempt, uniform):
    assert 0.0 <= guard.delay(attempt, 0.2, 5.0, uniform) <= min(5.0, 0.2 * 2.0 ** min(attempt, 60))


def test_back_off_uses_all_of_it():
    assert guard.delay(3, 0.2, 5.0, 0.0) == 0.0
    assert guard.delay(3, 0.2, 5.0, 0.5) == pytest.approx(0.8)
    assert guard.delay(30, 0.2, 5.0, 0.5) == 2.5
