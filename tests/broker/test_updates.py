"""The stream, cut and scrambled: every fill reaches the book once."""

import threading

import pytest

from broker.alpaca import AlpacaBroker
from broker.book import Book
from broker.port import TradingStopped
from broker.progress import Progress
from broker.safety import Endpoint, Keys, UnsafeBroker
from broker.updates import TradeUpdates
from tests.broker.rooms import ACCOUNT, LIMITS, Quick, entry, in_thread, order_id, quick, trading, until


class Follower:
    """A follower and what it delivers."""

    def __init__(self, server, broker, keys=None, poll=60.0):
        self.reports = []
        self.broker = AlpacaBroker(broker.there, keys or broker.keys, quick(), LIMITS, Quick(uniform=0.01))
        self.updates = TradeUpdates(self.broker, Progress(ACCOUNT), self.reports.extend, 0, poll)
        self.stop = threading.Event()

    def book(self):
        return Book.of(self.reports)

    def __enter__(self):
        self._running = in_thread(self.updates.run, self.stop)
        self.raised = self._running.__enter__()
        assert until(lambda: self.updates.connected.is_set() or self.raised)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self._running.__exit__(None, None, None)
        self.broker.close()


def agrees(server, follower):
    exchange = server.exchange
    book = follower.book()
    return book.cash == exchange.cash - exchange.initial_cash and book.qty == exchange.held


def names(reports):
    return [(report.order_id.rpartition("|")[2], report.status, report.qty) for report in reports]


def test_a_round_trip_as_it_is_told():
    with trading() as (server, broker), Follower(server, broker) as follower:
        broker.submit(entry())
        assert until(lambda: follower.book().qty == {"AAPL": 5})
        with server.control() as exchange:
            exchange.quote("AAPL", 1_960_000)
        assert until(lambda: agrees(server, follower) and len(follower.book().status) == 3)
        assert until(
            lambda: names(follower.reports)[-2:] == [("take_profit", "filled", 5), ("stop_loss", "canceled", 0)]
        )
        assert follower.book().cash == 300_000
        assert not follower.raised


def test_what_happened_while_the_line_was_cut_is_fetched():
    with trading() as (server, broker), Follower(server, broker) as follower:
        broker.submit(entry())
        assert until(lambda: follower.book().qty == {"AAPL": 5})
        server.scramble = lambda events: []  # nothing of it is ever sent
        with server.control() as exchange:
            exchange.quote("AAPL", 1_960_000)
        connects = follower.updates.connects
        server.close_streams()
        assert until(lambda: follower.updates.connects > connects and agrees(server, follower))
        assert names(follower.reports)[-2:] == [("take_profit", "filled", 5), ("stop_loss", "canceled", 0)]


def test_every_message_twice_and_the_wrong_way_round():
    with trading() as (server, broker), Follower(server, broker) as follower:
        server.scramble = lambda events: [*events[::-1], *events]
        with server.control() as exchange:
            exchange.quote("AAPL", 1_900_000, 2)
        broker.submit(entry())
        with server.control() as exchange:
            exchange.quote("AAPL", 1_910_000)
            exchange.quote("AAPL", 1_800_000)
        assert until(lambda: agrees(server, follower) and len(follower.book().counted) == 2)
        fills = [report.id for report in follower.reports if report.qty]
        assert len(fills) == len(set(fills)) == 3
        assert not any(report.estimated for report in follower.reports)


def test_a_swallowed_end_of_a_leg_shows_at_the_next_reading():
    with trading() as (server, broker), Follower(server, broker, poll=0.05) as follower:
        broker.submit(entry())
        assert until(lambda: follower.book().qty == {"AAPL": 5})
        server.scramble = lambda events: [event for event in events if event["event"] != "canceled"]
        with server.control() as exchange:
            exchange.quote("AAPL", 1_960_000)
        assert until(lambda: sorted(follower.book().status.values()) == ["canceled", "filled", "filled"])


def test_a_replaced_leg_keeps_its_name():
    with trading() as (server, broker), Follower(server, broker) as follower:
        legs = broker.submit(entry()).legs
        stop = next(leg for leg in legs if leg.kind == "stop")
        assert until(lambda: len(follower.book().status) == 3)
        broker.replace(stop.broker_id, id=order_id(1, "AAPL", "stop_loss"), stop=1_880_000)
        with server.control() as exchange:
            exchange.quote("AAPL", 1_880_000)
        assert until(lambda: agrees(server, follower) and not server.exchange.held)
        assert until(lambda: {"replaced", "filled", "canceled"} <= set(follower.book().status.values()))
        sold = [report for report in follower.reports if report.qty and report.side < 0]
        assert [report.leg.name for report in sold] == ["STOP_LOSS"]


def test_orders_of_others_are_not_reported():
    with trading() as (server, broker), Follower(server, broker) as follower:
        with server.control() as exchange:
            exchange.place({"symbol": "AAPL", "qty": 3, "side": "buy", "type": "market", "client_order_id": "by hand"})
        broker.submit(entry())
        assert until(lambda: follower.book().qty == {"AAPL": 5})
        assert {report.order_id.partition("|")[0] for report in follower.reports} == {ACCOUNT}


def test_being_shut_out_of_the_stream_stops():
    with trading() as (server, broker), Follower(server, broker, Keys("TESTOTHER", "x")) as follower:
        assert until(lambda: bool(follower.raised))
        assert isinstance(follower.raised[0], TradingStopped)


def test_the_stream_goes_to_the_brokers_host_only():
    with trading() as (server, broker):
        bent = Endpoint("exchange", broker.there.rest, "ws://127.0.0.2:9/stream")
        follower = Follower(server, broker)
        follower.broker.there = bent
        with follower:
            assert follower.updates.connects == 1  # it asked nobody else
        follower.broker.there = Endpoint("exchange", "http://example.com:80", bent.stream)
        with pytest.raises(UnsafeBroker):
            follower.updates.run(threading.Event())


def test_a_broker_that_comes_back_is_followed_again():
    with trading() as (server, broker), Follower(server, broker) as follower:
        server.scramble = lambda events: []
        for k in range(3):
            broker.submit(entry(qty=1, minute=k))
            connects = follower.updates.connects
            server.close_streams()
            assert until(lambda connects=connects: follower.updates.connects > connects)
        assert until(lambda: agrees(server, follower))
