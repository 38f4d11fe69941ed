"""A finished run's page, made again: `utp report RUN`."""

from pathlib import Path

from infra.results import read_summary
from risk import report
from schemas.errors import UserError


def again(run: Path) -> Path:
    """Write the run's report.html from its summary and tables; returns its path. Raises UserError."""
    summary = read_summary(run)
    if "funnel" not in summary:
        raise UserError(f"{run}: its summary.json is not that of a run")
    try:
        return report.write(run)
    except OSError as error:
        raise UserError(f"{run / 'report.html'}: {error.strerror or error}") from error
