import threading

import pytest

from infra import aside
from infra.aside import Aside


def test_calls_are_made_in_their_order_by_one_thread_of_its_own():
    made = []
    one = Aside()
    for k in range(100):
        one.call(lambda k: made.append((k, threading.get_ident())), k)
    one.wait()
    one.leave()
    assert [k for k, _ in made] == list(range(100))
    assert len({thread for _, thread in made} - {threading.get_ident()}) == 1


def test_what_a_call_raises_is_raised_and_nothing_after_it_is_done():
    made, held = [], threading.Event()

    def fall():
        held.wait(10)
        raise OSError("no space left")

    one = Aside()
    one.call(made.append, 1)
    one.call(fall)
    one.call(made.append, 2)
    held.set()
    with pytest.raises(OSError, match="no space left"):
        one.wait()
    one.leave()
    assert made == [1]


def test_a_later_call_raises_it_too():
    def fall():
        raise OSError("no space left")

    def call_often(one):
        for _ in range(aside.MOST + 2):
            one.call(lambda: None)

    one = Aside()
    one.call(fall)
    with pytest.raises(OSError, match="no space left"):
        call_often(one)
    one.leave()


def test_so_many_wait_and_no_more():
    held, made, begun = threading.Event(), [], threading.Event()
    one = Aside()
    one.call(lambda: (begun.set(), held.wait(10)))
    begun.wait(10)
    for k in range(aside.MOST):
        one.call(made.append, k)
    waiting = threading.Thread(target=one.call, args=(made.append, aside.MOST))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive(), "one call more than may wait was taken at once"
    held.set()
    waiting.join(10)
    one.wait()
    one.leave()
    assert made == list(range(aside.MOST + 1))


def test_who_leaves_waits_for_what_is_under_way_and_drops_the_rest():
    held, begun, made = threading.Event(), threading.Event(), []
    one = Aside()
    one.call(lambda: (begun.set(), held.wait(10), made.append("under way")))
    one.call(made.append, "waiting")
    begun.wait(10)
    threading.Timer(0.05, held.set).start()
    one.leave()
    assert made == ["under way"]
