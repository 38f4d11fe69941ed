"""No fill is lost or counted twice, whatever comes late, twice, in another order, or only by reading."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker import wire
from broker.book import Book
from broker.exchange import Exchange
from broker.port import FINAL
from broker.progress import Progress
from tests.broker.rooms import ACCOUNT, order_id


def history(draw):
    """An exchange after some bracket orders and prices; its events as the stream would tell them."""
    exchange = Exchange(seed=draw(st.integers(0, 3)), partial_one_in=draw(st.sampled_from([0, 1, 3])))
    price = 1_000_000
    exchange.quote("A", price)
    ids = []
    for k in range(draw(st.integers(1, 14))):
        what = draw(st.sampled_from(["buy", "move", "move", "cancel", "thin", "close", "replace", "day"]))
        if what == "buy":
            ids.append(order_id(k, "A"))
            exchange.place({"symbol": "A", "qty": draw(st.integers(1, 9)), "side": "buy", "type": "market",
                            "time_in_force": "day", "order_class": "bracket", "client_order_id": ids[-1],
                            "take_profit": {"limit_price": wire.usd(price * 103 // 10_000 * 100)},
                            "stop_loss": {"stop_price": wire.usd(price * 97 // 10_000 * 100)}})  # fmt: skip
        elif what in ("move", "thin"):
            price = price * draw(st.integers(95, 105)) // 10_000 * 100
            exchange.quote("A", price, draw(st.integers(0, 5)) if what == "thin" else None)
        elif what == "cancel":
            for order in [o for o in exchange.orders.values() if o.open][:1]:
                exchange.cancel(order.id)
        elif what == "replace":
            for order in [o for o in exchange.orders.values() if o.open and o.kind == "limit"][:1]:
                exchange.replace(order.id, {"limit_price": wire.usd(price * 110 // 10_000 * 100)})
        elif what == "day":
            exchange.close_market()
            exchange.open_market()
        else:
            exchange.close_position("A")
    return exchange


def told(exchange, progress, events, executions=True):
    """What is reported of these events, then of a full reading."""
    reports = []
    for event in events:
        state, execution = wire.update(event)
        if progress.knows(state):
            fills = [wire.activity(raw) for raw in exchange.activities(0, descending=True)] if executions else []
            given = fills if progress.lacks(state, [execution] if execution else []) else []
            reports += progress.advance(state, [*given, *([execution] if execution else [])])
    return reports + read(exchange, progress, executions)


def read(exchange, progress, executions=True):
    raw = exchange.listed("all", 500, 0, 0, descending=False, nested=True, symbols=set())
    fills = [wire.activity(raw) for raw in exchange.activities(0, descending=True)] if executions else []
    pending = [wire.order_state(order) for order in raw]
    reports = []
    for _ in range(len(pending)):
        for state in pending:
            reports += progress.advance(state, fills)
    return reports


def ours(exchange, progress):
    return {fill.id: fill for fill in exchange.fills if fill.order_id in progress.known}


@given(st.data())
def test_the_book_is_the_ledger_whatever_the_stream_does(data):
    exchange = history(data.draw)
    events = exchange.events
    kept = data.draw(st.lists(st.sampled_from(range(len(events))), max_size=2 * len(events)) if events else st.just([]))
    progress = Progress(ACCOUNT)
    reports = told(exchange, progress, [events[k] for k in kept])
    book, fills = Book.of(reports), ours(exchange, progress)
    assert book.cash == -sum((1 if f.side == "buy" else -1) * f.qty * f.price for f in fills.values())
    assert sum(report.qty for report in reports) == sum(f.qty for f in fills.values())
    assert not any(report.estimated for report in reports)
    assert len({report.id for report in reports if report.qty}) == sum(1 for report in reports if report.qty)
    assert read(exchange, progress) == []
    for broker_id, known in progress.known.items():
        order = exchange.orders[broker_id]
        assert (known.status, known.filled_qty, known.filled_cost) == (order.status, order.filled, order.cost)
        ends = [report for report in reports if report.broker_id == broker_id and report.status in FINAL]
        assert len(ends) <= 1  # an end is told once, and nothing after it
        assert not ends or ends == [report for report in reports if report.broker_id == broker_id][-1:]


@given(st.data())
def test_a_restart_from_the_reports_goes_on_where_it_was(data):
    exchange = history(data.draw)
    events = exchange.events
    cut = data.draw(st.integers(0, len(events)))
    first = Progress(ACCOUNT)
    before = []
    for event in events[:cut]:
        state, execution = wire.update(event)
        before += first.advance(state, [execution] if execution else [])
    kept = [msgspec.json.decode(msgspec.json.encode(report), type=type(report)) for report in before]
    second = Progress(ACCOUNT, kept)
    after = told(exchange, second, events[data.draw(st.integers(0, cut)) :])
    book, fills = Book.of([*kept, *after]), ours(exchange, second)
    assert book.cash == -sum((1 if f.side == "buy" else -1) * f.qty * f.price for f in fills.values())


@given(st.data())
def test_without_the_list_of_fills_shares_are_still_exact(data):
    """The average price is then all there is: the cost may be off by its rounding, and says so."""
    exchange = history(data.draw)
    progress = Progress(ACCOUNT)
    reports = told(exchange, progress, exchange.events[::3], executions=False)
    for broker_id, known in progress.known.items():
        order = exchange.orders[broker_id]
        assert known.filled_qty == order.filled
        assert abs(known.filled_cost - order.cost) <= order.filled  # ticks: four places of an average
    assert all(report.estimated for report in reports if report.qty and report.cost % report.qty and report.qty > 1)


def test_a_foreign_order_is_nothing_to_report():
    exchange = Exchange()
    exchange.quote("A", 1_000_000)
    exchange.place({"symbol": "A", "qty": 1, "side": "buy", "type": "market", "client_order_id": "by hand"})
    assert told(exchange, Progress(ACCOUNT), exchange.events) == []


def test_legs_have_names_of_their_own_and_pairs_too():
    exchange = Exchange()
    exchange.quote("A", 1_000_000, 2)
    exchange.place({"symbol": "A", "qty": 5, "side": "buy", "type": "market", "order_class": "bracket",
                    "client_order_id": order_id(0, "A"), "take_profit": {"limit_price": 103},
                    "stop_loss": {"stop_price": 97}})  # fmt: skip
    exchange.cancel(exchange.by_client[order_id(0, "A")])
    exchange.place({"symbol": "A", "qty": 2, "side": "sell", "type": "limit", "order_class": "oco",
                    "client_order_id": order_id(0, "A", "oco_take_profit"), "take_profit": {"limit_price": 103},
                    "stop_loss": {"stop_price": 97}})  # fmt: skip
    exchange.quote("A", 960_000)
    last = {report.order_id.rpartition("|")[2]: report for report in read(exchange, Progress(ACCOUNT))}
    assert {name: (report.status, report.filled_qty) for name, report in last.items()} == {
        "entry": ("canceled", 2), "take_profit": ("canceled", 0), "stop_loss": ("canceled", 0),
        "oco_take_profit": ("canceled", 0), "oco_stop_loss": ("filled", 2),
    }  # fmt: skip
    assert last["oco_stop_loss"].cost == 2 * 960_000
