"""Live results: for each session a folder like a backtest's, with tables, summary and report.

A session's folder appears in one step at its close; until then it is `<date>.partial`, from which a restart goes on.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from infra.result_header import Header, LedgerError
from infra.results import Recorder
from infra.snapshots import session_name
from risk.ledger import LedgerFrame
from schemas.calendar import Calendar

PART = "results"
HAPPENINGS = ("orders", "updates", "fills", "trades")  # tables of what may happen between two slices
TIMES = {"trades": "exit_ts"}
SNAPSHOTS = 2  # taken since a session was over, before none from within it can be resumed any more

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
            part.day = session, Recorder.resume(self._folder / session_name(session), header, state, keep=True)
            for left in self._folder.glob("*.partial"):  # of sessions before, which no resume can need any more
                if left.name < session_name(session):
                    shutil.rmtree(left, ignore_errors=True)
        return part


class Part(StatefulSinkPartition[LedgerFrame, State | None]):
    """The session that is being recorded, if one is.

    Its folder is made at its close, and again if more is heard of the session before the next one begins. What it is
    made of is kept until no resume can ask for it.
    """

    def __init__(
        self, folder: Path, header: Callable[[int, int], Header], calendar: Calendar, models: Models | None = None
    ):
        self._folder, self._header, self._calendar, self._models = folder, header, calendar, models
        self.day: tuple[int, Recorder] | None = None
        self._news = False  # what the session's folder does not have yet
        self._over: list[tuple[int, Recorder]] = []  # sessions before, and the snapshots taken since

    def write_batch(self, values: list[LedgerFrame]) -> None:
        """Each frame into its session's folder; before the first slice nothing can have happened."""
        for frame in values:
            says_nothing = frame.report >= 0 and not any(getattr(frame, table).size for table in HAPPENINGS)
            if frame.slices.size or (self.day is not None and not says_nothing):
                self._add(frame)
        self._finish()

    def _add(self, frame: LedgerFrame) -> None:
        session = self._session_of(frame)
        if self.day is None or self.day[0] < session:
            self._finish()
            if self.day is not None:
                self._over.append((0, self.day[1]))
            header = self._header(frame.slices.after, self._calendar.close_of(session))
            self.day = session, Recorder(self._folder / session_name(session), header)
        self.day[1].add(frame)
        self._news = True

    def _finish(self) -> None:
        if self.day is None or not self._news:
            return
        recorder = self.day[1]
        if recorder.complete:
            if self._models is not None:
                recorder.header["forecast"] = self._models(recorder.header["upto"])
            recorder.finish(keep=True)
            self._news = False

    def _session_of(self, frame: LedgerFrame) -> int:
        """The session of its slices, or of what happened in the slice under way.

        What a report says of the last slice belongs to that one's session: after a close, what has expired. What a
        command did after a close belongs to the next session.
        """
        if frame.slices.size:
            first, last = int(frame.slices.session[0]), int(frame.slices.session[-1])
            if first != last:
                raise LedgerError(f"results: a frame of the sessions {session_name(first)} and {session_name(last)}")
            return first
        upto = frame.slices.upto
        latest = max((int(getattr(frame, table)[TIMES.get(table, "ts")].max()) for table in HAPPENINGS
                      if getattr(frame, table).size), default=upto)  # fmt: skip
        return self._calendar.session_of(latest if frame.report >= 0 else upto + 1)

    def snapshot(self) -> State | None:
        """The open session; a closed one is known for what it is, and may have to take more."""
        kept = [(age + 1, recorder) for age, recorder in self._over if age < SNAPSHOTS]
        for age, recorder in self._over:
            if age >= SNAPSHOTS:
                recorder.drop_parts()
        self._over = kept
        if self.day is None:
            return None
        session, recorder = self.day
        return session, recorder.header, recorder.snapshot()
