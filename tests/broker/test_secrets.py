"""Planted keys turn up nowhere: not in logs, errors, tracebacks, reports or snapshots."""

import http.client
import logging
import pickle
import threading
import traceback

import msgspec
import pytest

from broker.alpaca import AlpacaBroker, Refused, Unanswered
from broker.port import TradingStopped
from broker.progress import Progress
from broker.safety import Gates, Keys
from broker.updates import TradeUpdates
from tests.broker.rooms import ACCOUNT, KEYS, LIMITS, Fault, Quick, entry, in_thread, once, quick, trading, until

PLANTED = (KEYS.secret, KEYS.key_id)


def clean(text):
    return not any(word in text for word in PLANTED)


@pytest.fixture
def logs():
    """Everything that is logged, at its loudest."""
    lines = []

    class All(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler, root = All(logging.DEBUG), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_planted_key_would_be_seen(logs):
    logging.getLogger("websockets.client").debug("> TEXT %s", KEYS.secret)
    assert not clean("\n".join(logs))


def test_nothing_is_logged_of_keys(logs):
    with trading() as (server, broker):
        follower = AlpacaBroker(broker.there, KEYS, quick(), LIMITS, Quick(uniform=0.01))
        reports, stop = [], threading.Event()
        updates = TradeUpdates(follower, Progress(ACCOUNT), reports.extend, 0)
        with in_thread(updates.run, stop):
            assert until(updates.connected.is_set)
            server.faults = once(Fault("drop"))
            broker.submit(entry())
            server.close_streams()
            assert until(lambda: updates.connects > 1 and bool(reports))
            stop.set()
        follower.close()
        assert logs  # the libraries did log
        assert clean("\n".join(logs))
        assert clean(msgspec.json.encode(reports).decode())
        assert clean(str(pickle.dumps(updates.progress.known)))


def everything(error):
    """A traceback with the causes behind it and all local values, as the most talkative reporter prints it."""
    seen, chain = [], error
    while chain is not None:
        for frame, _ in traceback.walk_tb(chain.__traceback__):
            seen += [
                f"{name}={value!r}"
                for name, value in frame.f_locals.items()
                if frame.f_code.co_filename.find("/tests/") < 0
            ]
        seen.append("".join(traceback.format_exception(chain)))
        seen.append(f"{chain!r} {chain.args!r} {vars(chain)!r}")
        chain = chain.__cause__ or chain.__context__
    return "\n".join(seen)


@pytest.mark.parametrize(
    ("fault", "raises"),
    [(Fault("echo"), Refused), (Fault("status", after=False, value=503), Unanswered), (Fault("drop"), Unanswered),
     (Fault("status", after=False, value=401), TradingStopped), (Fault("garbage"), Unanswered)],
)  # fmt: skip
def test_no_error_carries_them(fault, raises):
    with trading() as (server, broker):
        server.faults = lambda method, path: fault
        with pytest.raises(raises) as caught:
            broker.account()
        assert clean(everything(caught.value))


def test_a_refusal_that_repeats_them_is_scrubbed():
    with trading() as (server, broker):
        server.faults = once(Fault("echo", after=False))
        refusal = broker.submit(entry())
        assert "***" in refusal.message
        assert clean(refusal.message)


def test_objects_that_hold_them_do_not_show_them():
    with trading() as (_, broker):
        assert clean(f"{broker!r} {broker.keys!r} {Gates(quick(), broker.there, KEYS, ACCOUNT, enabled=True)!r}")
        for holder in (broker.keys, broker):
            with pytest.raises(TypeError):
                pickle.dumps(holder)
        assert http.client.HTTPConnection.debuglevel == 0


def test_only_whole_words_would_be_scrubbed_of_an_empty_key():
    assert Keys("", "").scrub("text") == "text"
