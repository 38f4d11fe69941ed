"""settings.toml, `--set` and the environment -> one frozen Settings; defaults stand in each Params."""

from typing import Annotated

from msgspec import Meta, Struct

from risk.limits import Exits, Halts, Rules, Venue
from risk.limits import Params as Account


class Run(Struct, frozen=True, forbid_unknown_fields=True):
    """How a run is cut and what is kept; none of it changes a decision."""

    account: str = "backtest"
    timeframe: str = "auto"
    frame_slices: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # slices in a frame; 0 chooses
    run_ahead: Annotated[int, Meta(ge=1, le=1_000)] = 4  # frames a shard may be ahead of the slowest


class Cash(Struct, frozen=True, forbid_unknown_fields=True):
    """What the account starts with."""

    initial_cash_usd: Annotated[float, Meta(gt=0.0, le=1_000_000_000)] = 100_000.0


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set, by section."""

    run: Run = Run()
    cash: Cash = Cash()
    rules: Rules = Rules()
    exits: Exits = Exits()
    halts: Halts = Halts()
    venue: Venue = Venue()

    @property
    def account(self) -> Account:
        """The account's share of it."""
        return Account(self.run.account, self.cash.initial_cash_usd, self.rules, self.exits, self.halts, self.venue)
