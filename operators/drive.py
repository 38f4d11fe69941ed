"""The two drivers of a step: `scan` in a Bytewax dataflow, `replay` over any iterable.

Only `scan` imports Bytewax, when it is called: a replay needs none of it.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from schemas.errors import UserError

if TYPE_CHECKING:
    from bytewax.operators import KeyedStream

S = TypeVar("S")
F = TypeVar("F")
G = TypeVar("G")
Step: TypeAlias = Callable[[S, F], tuple[S, G | None]]


class StateVersionError(UserError):
    """A snapshot was written by a version of an operator whose state has another shape."""

    def __init__(self, what: str):
        super().__init__(f"{what}: run the version that wrote it, or begin with a new recovery store")


def replay(start: S, step: Step[S, F, G], frames: Iterable[F]) -> Iterator[G]:
    """Run a step over frames; a None (the barrier, while a shard is behind) is no answer."""
    state = start
    for frame in frames:
        state, answer = step(state, frame)
        if answer is not None:
            yield answer


def one_by_itself(frame: Any) -> tuple[Any, ...]:
    """What comes is a frame."""
    return (frame,)


def scan(
    step_id: str,
    stream: "KeyedStream[F]",
    start: S,
    step: Step[S, F, G],
    restore: Callable[[S, Any], S] | None = None,
    keep: Callable[[F, S], None] | None = None,
    opened: Callable[[Any], Iterable[F]] = one_by_itself,
) -> "KeyedStream[G]":
    """Run a step over a keyed stream, one state per key, recoverable.

    Every key begins with `start`, which no step writes into; `restore` turns a snapshot back into a state.
    `keep` sees each frame with the state after it, to put that away where it is wanted. `opened` makes frames of
    what comes, where that is something around them.
    """
    import bytewax.operators as op
    from bytewax.operators import StatefulBatchLogic

    class Scan(StatefulBatchLogic[F, G, Any]):
        """A step with its state."""

        def __init__(self, resumed: Any):
            self.state = start if resumed is None else (restore or unflat)(start, resumed)

        def on_batch(self, values: list[F]) -> tuple[Iterable[G], bool]:
            answers = []
            for frame in chain.from_iterable(map(opened, values)):
                self.state, answer = step(self.state, frame)
                if answer is not None:
                    answers.append(answer)
                if keep is not None:
                    keep(frame, self.state)
            return answers, StatefulBatchLogic.RETAIN

        def snapshot(self) -> Any:
            # Pickled later, after more batches: safe because no step writes into a state it was given.
            return Snapshot(self.state, start) if isinstance(self.state, tuple) else flat(self.state)

    return op.stateful_batch(step_id, stream, Scan)


class Snapshot:
    """A state that is made plain when it is pickled: Bytewax asks for all of them at the end, whether stored or not."""

    __slots__ = ("_like", "_state")

    def __init__(self, state: tuple[Any, ...], like: Any):
        self._state, self._like = state, like

    def __reduce__(self) -> tuple[Any, ...]:
        """As the tuple that `flat` makes of it: a store knows nothing of this class."""
        return tuple, (flat(self._state, self._like),)


def flat(state: Any, like: Any = None) -> Any:
    """A state as nested plain tuples and arrays, so that a snapshot knows no class of ours.

    An array of the type that its place has in `like` becomes its shape and its bytes: to pickle the type of a small
    table takes ten times as long as to pickle its rows.
    """
    if hasattr(state, "__dataclass_fields__"):
        return tuple(flat(getattr(state, name)) for name in state.__dataclass_fields__)
    if isinstance(state, tuple):
        known = like if isinstance(like, tuple) and len(like) == len(state) else (None,) * len(state)
        return tuple(flat(part, one) for part, one in zip(state, known, strict=True))
    if isinstance(state, np.ndarray) and isinstance(like, np.ndarray) and state.dtype == like.dtype:
        return state.shape, state.tobytes()
    return state


def unflat(template: S, snapshot: Any) -> S:
    """The inverse of `flat` for NamedTuples of fixed shape; a `version` must be the template's.

    Raises StateVersionError otherwise: write the upgrade, or start the state anew and say so.
    """
    if isinstance(template, np.ndarray) and isinstance(snapshot, tuple):
        rows: S = _array(template, *snapshot)
        return rows
    if not isinstance(template, tuple):
        result: S = snapshot
        return result
    if not isinstance(snapshot, tuple) or len(template) != len(snapshot):
        raise StateVersionError(f"{type(template).__module__}: the snapshot's state has another shape")
    if hasattr(template, "version") and template.version != snapshot[0]:
        raise StateVersionError(
            f"{type(template).__module__}: the snapshot has version {snapshot[0]}, this code {template.version}"
        )
    parts = [unflat(one, other) for one, other in zip(template, snapshot, strict=True)]
    rebuilt: Any = type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
    restored: S = rebuilt
    return restored


def _array(template: np.ndarray[Any, Any], shape: tuple[int, ...], text: bytes) -> Any:
    if len(text) != math.prod(shape) * template.itemsize:
        raise StateVersionError("the snapshot's tables have other columns")
    return np.ndarray(shape, template.dtype, bytearray(text))
