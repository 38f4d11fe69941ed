import threading
import time

import pytest

from broker import guard, safety
from broker.guard import Exposure
from broker.port import ExecutionReport, OrderState, Refusal
from broker.safety import Endpoint, Gates, Params, UnsafeBroker
from broker.submitter import Submitter
from schemas.events import Leg, Reason, Side
from tests.broker.rooms import ACCOUNT, KEYS, Fault, Quick, entry, exit_, order_id, quick, trading

OPEN = guard.Params(cooldown_seconds=0, max_orders_per_minute=1_000, max_orders_per_symbol_per_day=1_000,
                    breaker_failures=1_000)  # fmt: skip


@pytest.fixture
def params(tmp_path):
    params = quick(dry_run=False, approval_file=str(tmp_path / "a"), approval_key_file=str(tmp_path / "k"), queue=3)
    safety.approve(params, issuer="ann", account=ACCOUNT, scope="entries", minutes=9, now=time.time_ns())
    return params


class Stub:
    """A broker that refuses; what it saw, in order."""

    def __init__(self, answer=None):
        self.seen, self.answer = [], answer

    def submit(self, order):
        self.seen.append(order.id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or Refusal(order.id, Reason.REFUSED, "stub")

    def cancel(self, broker_id):
        return None


def submitter(broker, params, limits=OPEN, there=None, exposure=None, enabled=True):
    there = there or safety.endpoint("exchange", "http://127.0.0.1:1")
    gates = Gates(params, there, KEYS, ACCOUNT, enabled=enabled)
    exposure = exposure or (lambda: Exposure(0, {}, 0))
    return Submitter(broker, gates, limits, exposure, lambda now: now // 86_400 // 10**9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"dry_run": True}, Reason.DRY_RUN), ({"enabled": False}, Reason.TRADING_DISABLED),
     ({"approval_file": "/nowhere"}, Reason.NOT_APPROVED)],
)  # fmt: skip
def test_a_shut_gate_sends_nothing(params, change, reason):
    broker = Stub()
    enabled = change.pop("enabled", True)
    shut = Params(**{**{n: getattr(params, n) for n in params.__struct_fields__}, **change})
    one = submitter(broker, shut, enabled=enabled)
    assert one.send(entry()).reason is reason
    assert broker.seen == []
    cancelled = one.cancel("b")
    assert (cancelled and cancelled.reason) == (None if reason is Reason.NOT_APPROVED else reason)
    exits = one.send(exit_()).reason
    assert (exits, len(broker.seen)) == ((Reason.REFUSED, 1) if reason is Reason.NOT_APPROVED else (reason, 0))


def test_a_revocation_acts_before_the_next_order(params):
    broker = Stub()
    one = submitter(broker, params)
    one.send(entry())
    safety.revoke(params, issuer="bob", now=time.time_ns())
    assert one.send(entry(minute=1)).reason is Reason.REVOKED
    assert broker.seen == [entry().id]


def test_a_live_address_raises_and_sends_nothing(params):
    broker = Stub()
    one = submitter(broker, params, there=Endpoint("paper", "https://api.alpaca.markets", "x"))
    for order in (entry(), exit_()):
        with pytest.raises(UnsafeBroker):
            one.send(order)
    assert broker.seen == []


def test_the_throttle_counts_what_was_sent(params):
    broker = Stub()
    limits = guard.Params(cooldown_seconds=0, max_orders_per_minute=2)
    one = submitter(broker, params, limits)
    reasons = [one.send(entry(minute=k)).reason for k in range(4)]
    assert reasons == [Reason.REFUSED] * 2 + [Reason.ORDERS_PER_MINUTE] * 2
    assert len(broker.seen) == 2


def test_throttles_hold_exactly_with_many_who_send_at_once(params):
    broker = Stub()
    limits = guard.Params(cooldown_seconds=0, max_orders_per_minute=2, max_orders_per_symbol_per_day=99)
    one = submitter(broker, params, limits)
    threads = [threading.Thread(target=lambda k=k: one.send(entry(minute=k))) for k in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(broker.seen) == 2


def test_an_order_in_doubt_stays_in_doubt_until_it_is_answered(params):
    with trading(params=quick(timeout_seconds=0.05, entry_seconds=0.5), clock=Quick()) as (server, broker):
        one = submitter(broker, params, there=broker.there)
        server.faults = lambda method, path: Fault("drop", after=method == "POST")
        assert one.send(entry()).reason is Reason.STATE_UNKNOWN
        assert list(one.doubtful) == [entry().id]
        server.faults = None
        assert isinstance(one.send(entry()), OrderState)
        assert one.doubtful == {}
        assert sum(1 for order in server.exchange.orders.values() if not order.parent) == 1


def test_a_dear_fill_pauses_entries_and_a_dear_leg_does_not(params):
    broker = Stub()
    one = submitter(broker, params)
    one.send(entry())
    leg = ExecutionReport("x", 0, order_id(leg="stop_loss"), "b", "AAPL", Side.SELL, Leg.STOP_LOSS, "filled", 5,
                          5 * 1_700_000, 5, 5 * 1_700_000)  # fmt: skip
    one.heard(leg)
    assert one.send(entry(minute=1)).reason is Reason.REFUSED
    one.heard(ExecutionReport("y", 0, entry().id, "c", "AAPL", Side.BUY, Leg.ENTRY, "filled", 5, 5 * 1_902_900, 5,
                              5 * 1_902_900))  # fmt: skip
    assert one.send(entry(minute=2)).reason is Reason.SLIPPAGE_GUARD
    assert one.send(exit_()).reason is Reason.REFUSED


# The contract's acceptance list, where it is about the broker.


def test_acceptance_8_no_price_or_state_no_order(params):
    broker = Stub()
    one = submitter(broker, params)
    naked = entry()
    naked = type(naked)(naked.id, naked.symbol, naked.side, naked.qty, naked.leg, naked.kind, 0, naked.take_profit,
                        naked.stop_loss)  # fmt: skip
    assert one.send(naked).reason is Reason.STATE_UNKNOWN
    assert broker.seen == []


def test_acceptance_9_one_order_though_delivered_twice_and_timed_out(params):
    with trading() as (server, broker):
        one = submitter(broker, params, there=broker.there)
        times = [0]

        def faults(method, path):
            times[0] += method == "POST"
            return Fault("drop") if method == "POST" and times[0] == 1 else None

        server.faults = faults
        first, second = one.send(entry()), one.send(entry())
        assert first.broker_id == second.broker_id
        assert sum(1 for order in server.exchange.orders.values() if not order.parent) == 1


def test_acceptance_12_nothing_is_sent_by_a_live_address_without_approval_or_in_a_dry_run(params):
    with trading() as (server, broker):
        fields = {n: getattr(params, n) for n in params.__struct_fields__}
        for change in ({"dry_run": True}, {"approval_file": "/nowhere"}):
            one = submitter(broker, Params(**{**fields, **change}), there=broker.there)
            assert isinstance(one.send(entry()), Refusal)
        with pytest.raises(UnsafeBroker):
            safety.of_environ(Params(), {"ALPACA_BASE_URL": "https://api.alpaca.markets", "ALPACA_API_KEY": "PK1",
                                         "ALPACA_SECRET_KEY": "s"})  # fmt: skip
        assert server.requests == []
        one = submitter(broker, params, there=broker.there)
        assert isinstance(one.send(entry()), OrderState)
