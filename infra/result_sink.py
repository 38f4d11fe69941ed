"""The Recorder as a Bytewax sink: one part, one writer, its snapshot the recorder's.

Bytewax closes a part when the flow has ended, but also while it falls over a mistake or Ctrl-C, and
an exception out of `close` then aborts the process. So `close` never raises: it finishes a run that
is complete, keeps what went wrong for `summary`, and leaves `.partial` as it is otherwise. The last
snapshot, which Bytewax asks for with or without a store, finishes too, so that nothing is written for a
resume that has nothing to do; parts that are there already stay until the end, for until this snapshot is
in the store a resume may need them. A flow of which every row was recorded before a crash has nothing left
to write when it is resumed: its part is built and closed, which finishes it or finds it finished.

Under `python -m bytewax.run` nobody asks for the summary: a sink that announces says on stderr where
the run is, and there a run that is complete but cannot be written does raise.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from infra.benchmark import Curve, Points
from infra.result_header import Header, LedgerError
from infra.results import Recorder, State, check_out
from risk.ledger import LedgerFrame

PART = "results"


class ResultSink(FixedPartitionedSink[LedgerFrame | Curve, State]):
    """Writes the ledger frames of one key; ask `summary` after the flow, or let it announce the end.

    The benchmark may come the same way; `benchmark` is asked where it has not.
    """

    def __init__(
        self,
        out: Path,
        header: Header,
        announce: bool = False,
        benchmark: Points | None = None,
        *,
        lasting: bool = True,
    ):
        self._out, self._header, self._announce, self._benchmark = check_out(out), header, announce, benchmark
        self._lasting = lasting
        self._summary: dict[str, Any] | None = None
        self._error: BaseException | None = None
        self._recorder: Recorder | None = None
        self.failing = False  # an exception is on its way; another one would abort the process

    def list_parts(self) -> list[str]:
        """One part, wherever it is placed."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> "_Part":
        """Start anew, or go on from a snapshot."""
        if resume_state is None:
            recorder = Recorder(self._out, self._header, self._benchmark, lasting=self._lasting)
        else:
            recorder = Recorder.resume(self._out, self._header, resume_state, self._benchmark)
        self._recorder = recorder
        return _Part(self, recorder)

    def interrupt(self) -> None:
        """Ctrl-C, seen by the main thread: a worker that is finishing the run leaves it as it is."""
        if self._recorder is not None:
            self._recorder.interrupted = True

    def summary(self) -> dict[str, Any]:
        """What the run came to; raises what went wrong when it was finished, or LedgerError if it was not."""
        if self._error is not None:
            raise self._error
        if self._summary is None:
            raise LedgerError("results: the flow ended without a single frame")
        return self._summary

    def close(self, recorder: Recorder, *, keep: bool = False) -> bool:
        """Finish the run and say whether that is done; never raises, `announce` may.

        After Ctrl-C nothing is finished any more.
        """
        if isinstance(self._error, KeyboardInterrupt):
            return False
        try:
            self._summary, self._error = recorder.finish(keep=keep), None
        except BaseException as error:  # Ctrl-C too: raised again by `summary`
            self._error = error
        return self._error is None

    def discard(self) -> None:
        """Drop what is not finished, once the flow is over."""
        if self._recorder is not None:
            self._recorder.discard()

    def raise_interrupt(self) -> None:
        """Ctrl-C while the run was being finished stops the flow where an exception may do so.

        Not where the main thread has seen it, and waits for this worker: two exceptions would be one too many.
        """
        seen = self._recorder is not None and self._recorder.interrupted
        if isinstance(self._error, KeyboardInterrupt) and not seen:
            raise self._error

    def announce(self, recorder: Recorder) -> None:
        """Say how it ended, where nobody else does."""
        if not self._announce:
            return
        if self._error is None:
            print(f"report: {self._out / 'report.html'}", file=sys.stderr)
        elif recorder.complete and not self.failing:
            raise self._error
        else:
            print(f"stopped: {self._error}", file=sys.stderr)


class _Part(StatefulSinkPartition[LedgerFrame | Curve, State]):
    def __init__(self, sink: ResultSink, recorder: Recorder):
        self._sink, self._recorder = sink, recorder
        self._made = False

    def write_batch(self, values: list[LedgerFrame | Curve]) -> None:
        with self._noted():
            for one in values:
                if isinstance(one, Curve):
                    self._recorder.benchmark = one
                else:
                    self._recorder.add(one)

    def snapshot(self) -> State:
        with self._noted():
            if self._recorder.complete and not self._made:
                # if it fails, the parts are kept and it is tried again
                self._made = self._sink.close(self._recorder, keep=self._recorder.has_parts)
                self._sink.raise_interrupt()
            return self._recorder.snapshot(made=self._made)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._sink.failing = True
            raise

    def close(self) -> None:
        if self._made:
            self._recorder.drop_parts()
        self._sink.close(self._recorder)
        self._sink.announce(self._recorder)
