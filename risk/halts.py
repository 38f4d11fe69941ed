"""When entries stop altogether: the day's loss, the kill switch, the drawdown latch."""

from operators.kernel import kernel
from risk.exits import portion_up
from risk.limits import Limits
from risk.portfolio import LONG_AGO, MAX_MONEY, Book, Funds
from schemas.events import Reason


@kernel
def open_session(limits: Limits, funds: Funds, session: int) -> None:
    """The day starts from the last equity; a latch may be released."""
    if funds.session == session:
        return
    funds.session = session
    funds.day_equity = funds.equity
    funds.day_trades_4, funds.day_trades_3 = funds.day_trades_3, funds.day_trades_2
    funds.day_trades_2, funds.day_trades_1, funds.day_trades = funds.day_trades_1, funds.day_trades, 0
    if funds.latched and limits.latch_resets:
        release_latch(funds)


@kernel
def release_latch(funds: Funds) -> None:
    """Drawdowns are measured from here."""
    funds.releases += funds.latched
    funds.latched = False
    funds.peak = funds.equity


@kernel
def value(book: Book) -> None:
    """Take stock: exposure, equity, peak."""
    funds = book.funds[0]
    exposure = 0
    value = 0
    for k in range(funds.busy):
        row = book.rows[book.busy[k]]
        exposure += row.mark * row.shares
        value += row.side * row.mark * row.shares
        funds.overflow = funds.overflow or exposure > MAX_MONEY
    funds.exposure, funds.value = exposure, value
    funds.equity = funds.cash + value
    funds.overflow = funds.overflow or funds.equity > MAX_MONEY
    funds.peak = max(funds.peak, funds.equity)
    funds.high = max(funds.high, funds.equity)


@kernel
def trip(limits: Limits, funds: Funds) -> Reason:
    """Switch on what the losses demand; returns what went on just now, the kill switch first."""
    tripped = Reason.NONE
    if not funds.latched and funds.peak - funds.equity >= portion_up(funds.peak, limits.drawdown_bps):
        funds.latched = True
        funds.latches += 1
        tripped = Reason.DRAWDOWN
    if not funds.killed and day_loss(funds) >= portion_up(funds.day_equity, limits.kill_loss_bps):
        kill(limits, funds)
        tripped = Reason.KILL_SWITCH
    return tripped


@kernel
def kill(limits: Limits, funds: Funds) -> None:
    """The switch goes on; a leave to enter that is needed is gone."""
    funds.killed = True
    if limits.needs_approval:
        funds.allowed_until = LONG_AGO


@kernel
def day_loss(funds: Funds) -> int:
    """What was lost since the session began, in ticks."""
    return funds.day_equity - funds.equity


@kernel
def drawdown(funds: Funds) -> float:
    """How far the equity is below the peak that the latch measures from, a fraction."""
    return fraction(funds.peak - funds.equity, funds.peak)


@kernel
def fraction(part: int, whole: int) -> float:
    """A part of a whole; of nothing, or of debts, all."""
    return part / whole if whole > 0 else 1.0
