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
from schemas.calendar import Calendar

PART = "results"

Models = Callable[[int], dict[str, Any]]
State = tuple[int, Header, dict[str, Any]]  # session, its header, what its recorder goes on from


class DayResults(FixedPartitionedSink[LedgerFrame, State | None]):
    """Writes ledger frames that hold slices of one session each; `header(after, upto)` describes a session's run.

    `models(upto)` says at its close who forecast in it: a model may come at any slice.
    """

    def __init__(
        self, folder: Path, header: Callable[[int, int], Header], calendar: Calendar, models: Models | None = None
    ):
        self._folder, self._header, self._calendar, self._models = folder, header, calendar, models

    def list_parts(self) -> list[str]:
        """One part, wherever it is placed."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> "Part":
        """Start anew, or go on in the session of the snapshot."""
        part = Part(self._folder, self._header, self._calendar, self._models)
        if resume_state is not None:
            session, header, state = resume_state
            part.day = session, Recorder.resume(self._folder / session_name(session), header, state)
        return part


class Part(StatefulSinkPartition[LedgerFrame, State | None]):
    """The session that is being recorded, if one is."""

    def __init__(
        self, folder: Path, header: Callable[[int, int], Header], calendar: Calendar, models: Models | None = None
    ):
        self._folder, self._header, self._calendar, self._models = folder, header, calendar, models
        self.day: tuple[int, Recorder] | None = None

    def write_batch(self, values: list[LedgerFrame]) -> None:
        """Each frame into its session's folder; before the first slice nothing can have happened."""
        for frame in values:
            if frame.slices.size or self.day is not None:
                self._add(frame)

    def _add(self, frame: LedgerFrame) -> None:
        session = self._session_of(frame)
        if self.day is None or self.day[0] != session:
            header = self._header(frame.slices.after, self._calendar.close_of(session))
            self.day = session, Recorder(self._folder / session_name(session), header)
        recorder = self.day[1]
        recorder.add(frame)
        if recorder.complete:
            if self._models is not None:
                recorder.header["forecast"] = self._models(recorder.header["upto"])
            recorder.finish()

    def _session_of(self, frame: LedgerFrame) -> int:
        """The session of its slices; what a command did after a close belongs to the next one."""
        if frame.slices.size:
            first, last = int(frame.slices.session[0]), int(frame.slices.session[-1])
            if first != last:
                raise LedgerError(f"results: a frame of the sessions {session_name(first)} and {session_name(last)}")
            return first
        return self._calendar.session_of(frame.slices.upto + 1)

    def snapshot(self) -> State | None:
        """The open session; a closed one needs nothing any more but must be known for what it is."""
        if self.day is None:
            return None
        session, recorder = self.day
        return session, recorder.header, recorder.snapshot()
