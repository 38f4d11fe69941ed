"""The reference by hand: what a reader can check without a computer."""

import pytest

from risk.limits import Exits, Params, Rules, Venue
from schemas.events import Direction, Leg, Phase, Reason, Side, Status
from tests.reference.account import Bar, Slice, run

MINUTE = 60_000_000_000
NEVER_SOLD_BY_RULE = Exits(take_profit_pct=0.1, stop_loss_pct=0.1, trailing_pct=1.0, max_holding_bars=0)
PARAMS = Params(  # 10 shares of 100.00 USD; target 110.00, stop 90.00; 10 bps of slippage
    initial_cash_usd=10_000.0,
    rules=Rules(max_position_pct=1.0, max_notional_usd=1_000.0, cooldown_seconds=0, max_cvar_pct=1.0),
    exits=NEVER_SOLD_BY_RULE,
    venue=Venue(slippage_bps=10),
)


def buy(close: float) -> Bar:
    """A bar that is a candidate."""
    return Bar(close, close, close, close, 1e6, direction=Direction.LONG, confidence=0.9, reason=Reason.NONE)


def bar(opening: float, high: float, low: float, close: float, volume: float = 1e6) -> Bar:
    return Bar(opening, high, low, close, volume)


def session(*bars: Bar) -> list[Slice]:
    """Bars of one symbol, a minute each, in a session that goes on."""
    return [Slice((i + 1) * MINUTE, 1, Phase.MIDDLE, {"A": one}) for i, one in enumerate(bars)]


def sold(ledger):
    """Leg, price and expected price of the sales."""
    return [(row[7], row[4], row[9]) for row in ledger.fills[1:]]


def test_a_bracket_that_reaches_its_target():
    ledger = run(PARAMS, session(buy(100.0), bar(100.0, 101.0, 99.0, 100.0), bar(100.0, 110.0, 100.0, 109.0)))
    assert [(row[5], row[8]) for row in ledger.orders] == [
        (Leg.ENTRY, 100_0000),
        (Leg.TAKE_PROFIT, 110_0000),
        (Leg.STOP_LOSS, 90_0000),
    ]
    assert sold(ledger) == [(Leg.TAKE_PROFIT, 110_0000, 110_0000)]
    (trade,) = ledger.trades
    assert trade[:11] == (
        *("A", MINUTE, 2 * MINUTE, 3 * MINUTE, Side.BUY, 10, 10 * 100_1000, 10 * 110_0000, 0, 10 * 9_9000),
        Reason.TAKE_PROFIT,
    )
    assert trade[11:] == pytest.approx((99.0 / 100.1 - 1.0, 110.0 / 100.1 - 1.0))
    assert ledger.funds["cash"] == 10_099_0000
    assert [row[3:] for row in ledger.updates] == [
        (Leg.ENTRY, Status.FILLED, 10, Reason.NONE),
        (Leg.TAKE_PROFIT, Status.FILLED, 10, Reason.TAKE_PROFIT),
        (Leg.STOP_LOSS, Status.CANCELED, 10, Reason.SIBLING),
    ]


def test_a_bar_through_both_legs_is_a_stop():
    ledger = run(PARAMS, session(buy(100.0), bar(100.0, 120.0, 80.0, 100.0)))
    assert sold(ledger) == [(Leg.STOP_LOSS, 90_0000 - 900, 90_0000)]


def test_a_gap_is_filled_at_the_open():
    down = run(PARAMS, session(buy(100.0), bar(100.0, 100.0, 100.0, 100.0), bar(80.0, 95.0, 80.0, 95.0)))
    up = run(PARAMS, session(buy(100.0), bar(100.0, 100.0, 100.0, 100.0), bar(115.0, 115.0, 95.0, 95.0)))
    assert sold(down) == [(Leg.STOP_LOSS, 80_0000 - 800, 80_0000)]
    assert sold(up) == [(Leg.TAKE_PROFIT, 115_0000, 115_0000)]


def test_an_open_at_a_leg_refuses_the_bracket():
    for opening in (90.0, 110.0):
        ledger = run(PARAMS, session(buy(100.0), bar(opening, opening, opening, opening)))
        assert ledger.updates == [(2 * MINUTE, "A", MINUTE, Leg.ENTRY, Status.REJECTED, 10, Reason.STALE_BASE)]
        assert not ledger.fills


def test_half_the_spread_is_that_of_the_quote_before():
    decided, filled = buy(100.0), bar(100.0, 100.0, 100.0, 100.0)
    decided.half_spread, filled.half_spread = 0.02, 0.03
    ledger = run(PARAMS, session(decided, filled, bar(80.0, 80.0, 80.0, 80.0)))
    assert ledger.fills[0][4] == 100_0000 + 1000 + 200
    assert sold(ledger) == [(Leg.STOP_LOSS, 80_0000 - 800 - 300, 80_0000)]


def test_a_part_of_an_entry_gets_a_pair_of_its_own_for_the_next_bar():
    bars = session(buy(100.0), bar(100.0, 120.0, 80.0, 100.0, volume=4.0), bar(100.0, 110.0, 100.0, 105.0))
    ledger = run(PARAMS, bars)
    assert [row[3:] for row in ledger.updates] == [
        (Leg.ENTRY, Status.PARTIALLY_FILLED, 4, Reason.NONE),
        (Leg.ENTRY, Status.CANCELED, 6, Reason.PARTIAL_ENTRY),
        (Leg.OCO_TAKE_PROFIT, Status.FILLED, 4, Reason.TAKE_PROFIT),
        (Leg.OCO_STOP_LOSS, Status.CANCELED, 4, Reason.SIBLING),
    ]
    assert [(row[0], row[6]) for row in ledger.orders[3:]] == [(2 * MINUTE, MINUTE)] * 2


def test_a_stop_without_room_for_all_sells_the_rest_at_the_next_open():
    filled, touched = bar(100.0, 100.0, 100.0, 100.0), bar(95.0, 95.0, 85.0, 95.0, volume=7.0)
    ledger = run(PARAMS, session(buy(100.0), filled, touched, bar(108.0, 112.0, 108.0, 112.0)))
    assert sold(ledger) == [
        (Leg.STOP_LOSS, 90_0000 - 900, 90_0000),
        (Leg.STOP_LOSS, 108_0000 - 1080, 108_0000),
    ]
    assert [row[3:6] for row in ledger.updates[1:]] == [
        (Leg.STOP_LOSS, Status.PARTIALLY_FILLED, 7),
        (Leg.TAKE_PROFIT, Status.CANCELED, 10),
        (Leg.STOP_LOSS, Status.FILLED, 3),
    ]
