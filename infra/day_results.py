"""Live results: for each session a folder like a backtest's, with tables, summary and report.

A session's folder appears in one step at its close; until then it is `<date>.partial`, from which a restart goes on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from infra.results import Header, LedgerError, Recorder
from infra.snapshots import session_name
from risk.ledger import LedgerFrame

PART = "results"

State = tuple[int, Header, dict[str, Any]]  # session, its header, what its recorder goes on from


class DayResults(FixedPartitionedSink[LedgerFrame, State | None]):
    """Writes ledger frames that hold slices of one session each; `header(after, upto)` describes a session's run."""

    def __init__(self, folder: Path, header: Callable[[int, int], Header], close_of: Callable[[int], int]):
        self._folder, self._header, self._close_of = folder, header, close_of

    def list_parts(self) -> list[str]:
        """One part, wherever it is placed."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> "Part":
        """Start anew, or go on in the session of the snapshot."""
        part = Part(self._folder, self._header, self._close_of)
        if resume_state is not None:
            session, header, state = resume_state
            part.day = session, Recorder.resume(self._folder / session_name(session), header, state)
        return part


class Part(StatefulSinkPartition[LedgerFrame, State | None]):
    """The session that is being recorded, if one is."""

    def __init__(self, folder: Path, header: Callable[[int, int], Header], close_of: Callable[[int], int]):
        self._folder, self._header, self._close_of = folder, header, close_of
        self.day: tuple[int, Recorder] | None = None

    def write_batch(self, values: list[LedgerFrame]) -> None:
        """Each frame into its session's folder; one without slices says nothing."""
        for frame in values:
            if frame.slices.size:
                self._add(frame)

    def _add(self, frame: LedgerFrame) -> None:
        first, last = int(frame.slices.session[0]), int(frame.slices.session[-1])
        if first != last:
            raise LedgerError(f"results: a frame of the sessions {session_name(first)} and {session_name(last)}")
        if self.day is not None and self.day[0] == first and self.day[1].finished:
            raise LedgerError(f"results: session {session_name(first)} is closed, and a frame of it follows")
        if self.day is None or self.day[0] != first:
            header = self._header(frame.slices.after, self._close_of(first))
            self.day = first, Recorder(self._folder / session_name(first), header)
        recorder = self.day[1]
        recorder.add(frame)
        if recorder.complete:
            recorder.finish()

    def snapshot(self) -> State | None:
        """The open session; a closed one needs nothing any more but must be known for what it is."""
        if self.day is None:
            return None
        session, recorder = self.day
        return session, recorder.header, recorder.snapshot()
