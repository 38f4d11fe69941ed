"""`utp`: backtest, report, drift, train, models, features, metrics, why, bench; the log; paper trading.

Whatever takes its time to import is imported by the command that needs it, so that `utp --help`
answers at once. A user's mistake is one line on stderr and exit code 2, Ctrl-C is 130; anything
else is a bug and keeps its traceback.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence

import typer

from dataflows import broker_commands, live_commands, log_commands, model_commands, run_commands
from dataflows.interrupts import heeding_interrupts
from schemas.errors import UserError

app = typer.Typer(
    help="US-equity bars in, orders out.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run_commands.register(app)
model_commands.register(app)
live_commands.register(app)
broker_commands.register(app)
app.command(short_help="A Kafka-protocol server for trying things out.")(log_commands.broker)
app.add_typer(log_commands.topics, name="topics")
app.add_typer(log_commands.dlq, name="dlq")


def main(argv: Sequence[str] | None = None) -> None:
    """The program: one line for a mistake."""
    with heeding_interrupts() as interrupted:
        code = _run(list(sys.argv[1:] if argv is None else argv), interrupted)
    if argv is None:  # all is done: the interpreter may close down in peace
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _run(arguments: list[str], interrupted: Callable[[], bool]) -> int:
    """The exit code; what is a bug is raised, unless Ctrl-C may have made it."""
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="utp", standalone_mode=False)
    except typer.TyperException as error:  # unknown option, missing argument
        return _stopped(2, error.format_message())
    except typer.Abort:
        return _stopped(130, "interrupted")
    except (Exception, KeyboardInterrupt) as error:
        for cause in _causes(error):  # a dataflow wraps what its steps raise
            if isinstance(cause, UserError):
                return _stopped(2, str(cause))
            if isinstance(cause, KeyboardInterrupt):
                return _stopped(130, "interrupted")
        if interrupted():
            return _stopped(130, "interrupted")
        raise
    if code == 130:  # typer's answer to Ctrl-C
        return _stopped(130, "interrupted")
    return code if isinstance(code, int) else 0


def _stopped(code: int, message: str) -> int:
    print("utp:", " ".join(message.split()), file=sys.stderr)
    return code


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


if __name__ == "__main__":
    main()
