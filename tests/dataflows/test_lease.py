"""Who executes an account: one process at a time, whatever hosts they run on."""

import threading
import time

import pytest

from dataflows.lease import TOPIC, Fenced, Lease, holder
from infra.kafka import bounds
from infra.topics import create_topics
from schemas.errors import UserError
from tests.broker.rooms import ACCOUNT, until

SECONDS = 1.5


@pytest.fixture
def log(kafka):
    create_topics(kafka)
    return kafka


@pytest.fixture
def lease(log):
    """Makes leases, and closes them without a word."""
    made = []

    def make(name, seconds=SECONDS, account=ACCOUNT, ended=lambda error: None):
        made.append(Lease(log, account, name, seconds, threading.Event(), ended))
        return made[-1]

    yield make
    for one in made:
        one._stop.set()
        one.close(release=False)


def freeze(one):
    """A process that hangs: it neither renews nor hears; returns what lets it go on."""
    one._closing.set()
    one._thread.join()
    one._closing.clear()
    return lambda: one._start(0)


def test_the_first_holds_it_and_the_second_is_refused(lease):
    first = lease("one/a")
    first.take()
    first.check()
    with pytest.raises(UserError, match="account paper is executed already, by one/a: end that one first"):
        lease("two/b").take()
    first.check()
    assert until(lambda: first._number > 4, 10.0)  # it goes on renewing
    first.check()


def test_another_account_is_nobody_elses(lease):
    lease("one/a", seconds=600.0).take()
    other = lease("two/b", account="other", seconds=600.0)
    other.take()  # at once: to wait for the first one would take ten minutes
    other.check()


def test_a_release_needs_no_wait_and_a_restart_in_its_place_neither(lease):
    first = lease("one/a", seconds=600.0)
    first.take()
    first.close()
    second = lease("two/b", seconds=600.0)
    second.take()
    second.check()
    second.close(release=False)  # killed
    again = lease("two/b", seconds=600.0)
    again.take()
    again.check()


def test_who_was_killed_elsewhere_is_waited_for(lease):
    first = lease("one/a")
    first.take()
    first.close(release=False)
    began = time.monotonic()
    second = lease("two/b")
    second.take()
    second.check()
    assert time.monotonic() - began >= SECONDS


def test_one_that_wakes_up_is_fenced_and_never_acts_while_the_other_may(lease):
    """It trusts itself for less long than the other waits; after that it does nothing until the log has spoken."""
    heard = []
    first = lease("one/a", ended=heard.append)
    first.take()
    go_on = freeze(first)
    second = lease("two/b")
    taking = threading.Thread(target=second.take)
    taking.start()
    both = 0
    while taking.is_alive():
        trusts = time.monotonic() < first._trusted
        both += trusts and time.monotonic() < second._trusted
    taking.join()
    assert both == 0
    assert time.monotonic() >= first._trusted
    asked, said = threading.Event(), []

    def ask():
        asked.set()
        try:
            first.check()
        except Fenced as error:
            said.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asked.wait()
    time.sleep(0.2)
    assert asking.is_alive()  # it waits
    go_on()
    asking.join(10.0)
    assert [str(one) for one in said] == ["account paper is executed by two/b now"]
    assert heard == said
    second.check()
    with pytest.raises(Fenced):
        first.check()


@pytest.mark.parametrize("round_", range(3))
def test_of_many_that_start_at_once_one_gets_it(lease, round_):
    many = [lease(f"{k}/x") for k in range(6)]
    gate, got, refused = threading.Barrier(len(many)), [], []

    def begin(one):
        gate.wait()
        try:
            one.take()
            one.check()
            got.append(one)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=begin, args=(one,)) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    time.sleep(SECONDS / 2)
    alive = []
    for one in got:
        try:
            one.check()
            alive.append(one)
        except Fenced as error:
            refused.append(str(error))
    assert len(alive) == 1
    assert len(refused) == len(many) - 1
    assert all(alive[0].name in said or "is executed" in said for said in refused)


def test_nothing_is_done_while_the_log_is_away_and_a_stop_ends_the_wait(lease):
    first = lease("one/a")
    first.take()
    freeze(first)  # as if no renewal came back
    assert until(lambda: time.monotonic() >= first._trusted, 5.0)
    threading.Timer(0.2, first._stop.set).start()
    with pytest.raises(Fenced, match="told to stop while the log had not confirmed"):
        first.check()


def test_a_folder_keeps_its_name_and_another_has_another(tmp_path):
    one = holder(tmp_path / "a", ACCOUNT)
    assert holder(tmp_path / "a", ACCOUNT) == one
    assert len({one, holder(tmp_path / "b", ACCOUNT), holder(tmp_path / "a", "other")}) == 3


def test_claims_are_few(lease, log):
    lease("one/a", seconds=600.0).take()
    assert bounds(log, TOPIC)[0] == (0, 1)
