"""What the platform says to a broker and hears from it; the account never knows which broker it is.

Money is in ticks of 1/10 000 USD, shares are whole, times are UTC ns. An order is named by its content id
(`account|symbol|slice|leg`), which is the broker's client order id: the same decision can be sent any
number of times and is placed once.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Protocol

from msgspec import Struct

from schemas.events import Kind, Leg, Reason, Side, word

MAX_ID = 128  # characters of a client order id at Alpaca
FINAL = frozenset(
    {"filled", "canceled", "expired", "rejected", "replaced"}
)  # every other state is open, unknown ones too


class Shape(IntEnum):
    """How many orders a request is."""

    SINGLE = 0
    BRACKET = 1  # an entry with its take profit and its stop
    OCO = 2  # take profit and stop for shares that are held


class OrderRequest(Struct, frozen=True):
    """An order as the account sent it; an entry always carries both legs."""

    id: str
    symbol: str
    side: Side
    qty: int
    leg: Leg
    kind: Kind = Kind.MARKET
    price: int = 0  # limit or stop in ticks; of a market order, the price it was decided on
    take_profit: int = 0
    stop_loss: int = 0

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= MAX_ID:
            raise ValueError(f"order id of {len(self.id)} characters: want 1 to {MAX_ID}")
        if self.qty < 1:
            raise ValueError(f"order {self.id}: {self.qty} shares, want at least 1")
        if self.shape is not Shape.SINGLE and not (self.take_profit > 0 and self.stop_loss > 0):
            raise ValueError(f"order {self.id}: a {word(self.shape)} needs a take profit and a stop")

    @property
    def shape(self) -> Shape:
        """Which legs go with it."""
        if self.leg is Leg.ENTRY:
            return Shape.BRACKET
        return Shape.OCO if self.leg in (Leg.OCO_TAKE_PROFIT, Leg.OCO_STOP_LOSS) else Shape.SINGLE

    @property
    def reduces(self) -> bool:
        """Whether it can only make a position smaller: such orders pass when entries do not."""
        return self.leg is not Leg.ENTRY

    @property
    def account(self) -> str:
        """The account's name, the first part of the id."""
        return self.id.split("|")[0]


def leg_id(parent: str, leg: Leg) -> str:
    """The content id of another leg of the same decision."""
    return f"{parent.rpartition('|')[0]}|{word(leg)}"


class OrderState(Struct, frozen=True):
    """An order as the broker has it."""

    broker_id: str
    client_id: str
    symbol: str
    side: Side
    qty: int
    filled_qty: int
    filled_cost: int  # of all that is filled; a multiple of the average price, so perhaps rounded
    status: str
    kind: str
    shape: str
    limit_price: int
    stop_price: int
    submitted: int
    updated: int
    replaces: str = ""
    replaced_by: str = ""
    legs: tuple["OrderState", ...] = ()

    @property
    def open(self) -> bool:
        """Whether it can still be filled; a state nobody knows counts as open."""
        return self.status not in FINAL


class Execution(Struct, frozen=True):
    """Shares of one order that changed hands at once; `filled_qty` counts the order's fills up to here."""

    broker_id: str
    filled_qty: int
    qty: int
    price: int
    ts: int


class ExecutionReport(Struct, frozen=True):
    """A change of one order: shares filled, another state, or both. What the account's log keeps."""

    id: str
    ts: int
    order_id: str  # the content id; legs have theirs, though the broker named them otherwise
    broker_id: str
    symbol: str
    side: Side
    leg: Leg
    status: str
    qty: int  # shares of this report, 0 for a mere change of state
    cost: int  # what they cost, or brought
    filled_qty: int  # of the order so far
    filled_cost: int
    estimated: bool = False  # the cost comes from the order's average price: no execution told it exactly
    reason: Reason = Reason.NONE  # why an order was never placed; it has no `broker_id` then


class BrokerPosition(Struct, frozen=True):
    """Shares the broker says we hold; negative for a short."""

    symbol: str
    qty: int
    cost: int
    price: int  # the market's


class BrokerAccount(Struct, frozen=True):
    """The account as the broker has it."""

    number: str
    status: str
    cash: int
    equity: int
    last_equity: int  # at the close before
    buying_power: int
    blocked: bool
    shorting: bool


class Refusal(Struct, frozen=True):
    """Why an order was not placed, by a gate, the guard, or the broker. STATE_UNKNOWN: nobody knows yet."""

    id: str
    reason: Reason
    message: str


class TradingStopped(RuntimeError):  # noqa: N818
    """The broker does not let us in, or answers what cannot be: no further order until a human has looked."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason = reason


class Broker(Protocol):
    """A place to send orders to. Calls block; `Submitter` keeps them off the dataflow."""

    def submit(self, order: OrderRequest) -> OrderState | Refusal:
        """Place it, once, whatever is lost on the way."""

    def cancel(self, broker_id: str) -> Refusal | None:
        """Ask for an order's end; its state comes later, and a fill may win."""

    def replace(self, broker_id: str, *, id: str, qty: int = 0, limit: int = 0, stop: int = 0) -> OrderState | Refusal:  # noqa: A002
        """Another quantity or price for an open order; the new one has the content id `id`."""

    def find(self, id: str) -> OrderState | None:  # noqa: A002
        """The order of this content id, with its legs."""

    def order(self, broker_id: str) -> OrderState | None:
        """The order of this broker's id, with its legs."""

    def open_orders(self) -> list[OrderState]:
        """All that can still be filled, legs listed on their own."""

    def orders_since(self, ts: int) -> list[OrderState]:
        """All that were submitted after this instant, in order of submission, legs below their parents."""

    def executions(self, broker_ids: Sequence[str], since: int) -> Mapping[str, list[Execution]]:
        """The single fills of these orders."""

    def positions(self) -> list[BrokerPosition]:
        """What is held."""

    def account(self) -> BrokerAccount:
        """Cash, equity, and whether it may trade."""


Deliver = Callable[[list[ExecutionReport]], None]
