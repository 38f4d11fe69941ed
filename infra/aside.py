"""Work that a thread of its own does, one call after the other, while whoever asked for it goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MOST = 16  # calls that may wait: what they are about is kept until then


class Aside:
    """Calls in their order; what one of them raises, a later `call` raises, or `wait`, and nothing after it is done."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "aside")
        self._calls: deque[Future[None]] = deque()
        self._failed = False

    def call(self, what: Callable[..., None], *given: Any) -> None:
        """Have it called; waits where too many others are waiting."""
        while self._calls and (len(self._calls) > MOST or self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(self._do, what, given))

    def _do(self, what: Callable[..., None], given: tuple[Any, ...]) -> None:
        if self._failed:
            return
        try:
            what(*given)
        except BaseException:
            self._failed = True
            raise

    def wait(self) -> None:
        """Until all is done."""
        while self._calls:
            self._calls.popleft().result()

    def leave(self) -> None:
        """Nothing more is begun; what is under way ends first."""
        self._thread.shutdown(cancel_futures=True)
