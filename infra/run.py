"""Run a flow: the options of `python -m bytewax.run`, but a user's mistake is one line and exit code 2, Ctrl-C 130.

python -m infra.run dataflows.live -r var/recovery/live -s 10 -b 0

`--accept-state-loss` starts on a store that holds state of steps which the flow does not have, and leaves it behind.
"""

import os
import signal
import sys
import threading
from datetime import timedelta
from types import FrameType

from infra.recovery import ACCEPT
from schemas.errors import UserError

LOSS = "--accept-state-loss"


def main() -> None:
    """Run until the flow ends. What stops it is raised, unless a user can mend it."""
    _heed_interrupts()
    from bytewax.recovery import RecoveryConfig
    from bytewax.run import _locate_dataflow, _parse_args, _prepare_import
    from bytewax.testing import cluster_main

    if LOSS in sys.argv:
        sys.argv.remove(LOSS)
        os.environ[ACCEPT] = "1"
    given = _parse_args()  # type: ignore[no-untyped-call]
    store, interval = given.recovery_directory, given.snapshot_interval
    try:
        flow = _locate_dataflow(*_prepare_import(given.import_str))  # type: ignore[no-untyped-call]
        config = RecoveryConfig(store, given.backup_interval) if store else None  # type: ignore[no-untyped-call]
        cluster_main(  # type: ignore[no-untyped-call]  # `cli_main` would print a backtrace of its own
            flow,
            given.addresses.split(";") if given.addresses else [],
            given.process_id or 0,
            epoch_interval=interval or timedelta(seconds=10),
            recovery_config=config,
            worker_count_per_proc=given.workers_per_process or 1,
        )
    except Exception as error:
        mistake = cause(error)
        if mistake is None:
            raise
        print(f"{given.import_str}: {mistake}", file=sys.stderr)
        sys.exit(2)


def heed_bytewax_interrupts() -> None:
    """Ctrl-C is one line under `python -m bytewax.run`, too, from when the flow is built on."""
    if getattr(sys.modules["__main__"].__spec__, "name", "") == "bytewax.run":
        _heed_interrupts()


def _heed_interrupts() -> None:
    is_first = threading.current_thread() is threading.main_thread()
    if (
        is_first and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # ignored, as after `nohup`, it stays
        signal.signal(signal.SIGINT, leave)


def leave(number: int, frame: FrameType | None) -> None:
    """End at once, as SIGTERM does: where an exception meets a worker of Bytewax is chance, and may be a panic."""
    os.write(2, b"interrupted; started again the flow goes on where its store says\n")
    os._exit(130)


def cause(error: BaseException | None) -> UserError | None:
    """The user's mistake from which an error came, if it did."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


if __name__ == "__main__":
    main()
