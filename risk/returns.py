"""What the last closes say of symbols together: their correlation, and the expected shortfall.

A return counts where its symbol had a bar in a slice and in the one before. Sums run from the oldest to
the newest, names from the candidate to the others in alphabetical order: the bits depend on it.
"""

import math

from operators.kernel import kernel
from risk.portfolio import Book
from risk.scratch import TAIL, Returns
from schemas.frames import Floats

HALVINGS = 8  # of the range between the worst and nothing, at most
NORMAL_TAIL = 2.0627  # φ(Φ⁻¹(0.05)) / 0.05: the mean of a normal distribution's worst twentieth, in deviations
SLACK = 1e-9  # what rounding may do to a sum of squares, and far more


@kernel
def mean_correlation(book: Book, room: Returns, least: int, limit: float, symbol: int, side: int) -> float:
    """Mean over all pairs of the candidate and the names held or wanted; -1 if it is surely below the limit.

    A short one's returns count with the other sign. A name with fewer than `least` returns, or with none
    that moves, is left out; without the candidate or without any other there is no mean: -1.
    """
    total, one = room.total, room.one
    if not standardise(book, least, symbol, side, total):
        return -1.0
    busy, names = book.funds[0].busy, 1
    for k in range(busy):
        if standardise(book, least, book.busy[k], book.rows[book.busy[k]].side, one):
            names += 1
            for t in range(one.size):
                total[t] += one[t]
        if is_surely_below(limit, names, busy - 1 - k, squares(total)):
            return -1.0
    if names < 2:
        return -1.0
    return (squares(total) - names) / (names * (names - 1))


@kernel
def is_surely_below(limit: float, names: int, more: int, square: float) -> bool:
    """Whether the mean stays below the limit, however the names to come move with those so far.

    With m more the sum has a length of at most √square + m; what is missing to the limit is concave in m.
    """
    last = names + more
    longest = math.sqrt(square) + more
    now = limit * names * (names - 1) + names - square
    then = limit * last * (last - 1) + last - longest * longest
    return now > SLACK and then > SLACK


@kernel
def standardise(book: Book, least: int, symbol: int, side: int, out: Floats) -> bool:
    """Returns less their mean, scaled so that their squares sum to 1, 0 where there is none.

    False if that cannot be.
    """
    known = last_returns(book, symbol, out)
    if known < least:
        return False
    mean = 0.0
    for k in range(out.size):
        if out[k] == out[k]:
            mean += out[k]
    mean /= known
    square = 0.0
    for k in range(out.size):
        out[k] = side * (out[k] - mean) if out[k] == out[k] else 0.0
        square += out[k] * out[k]
    if square <= 0.0:
        return False
    length = math.sqrt(square)
    for k in range(out.size):
        out[k] /= length
    return True


@kernel
def squares(values: Floats) -> float:
    """The sum of the squares."""
    total = 0.0
    for k in range(values.size):
        total += values[k] * values[k]
    return total


@kernel
def last_returns(book: Book, symbol: int, out: Floats) -> int:
    """One-slice returns of the last slices, the oldest first, NaN where a bar is missing; how many are known."""
    closes = book.closes[symbol]
    oldest = (book.funds[0].slices + 1) % closes.size
    wrap = closes.size - 1 - oldest  # of these pairs none goes over the ring's end
    for k in range(wrap):
        out[k] = closes[oldest + k + 1] / closes[oldest + k] - 1.0
    if wrap < out.size:
        out[wrap] = closes[0] / closes[closes.size - 1] - 1.0
    for k in range(wrap + 1, out.size):
        out[k] = closes[k - wrap] / closes[k - wrap - 1] - 1.0
    known = 0
    for k in range(out.size):
        known += out[k] == out[k]
    return known


@kernel
def own_shortfall(book: Book, room: Returns, least: int, symbol: int, side: int, volatility: float) -> float:
    """CVaR-95 of one share held or sold short, a fraction of its price."""
    profit = room.total
    known = last_returns(book, symbol, profit)
    if known < least:
        return NORMAL_TAIL * volatility
    for k in range(profit.size):
        profit[k] *= side
    return tail_loss(profit, profit, known, room.worst, room.one)


@kernel
def marginal_shortfall(
    book: Book, room: Returns, least: int, symbol: int, side: int, value: int, volatility: float
) -> float:
    """The candidate's part in the portfolio's CVaR-95, a fraction of equity.

    Its mean loss in those of the last slices in which the portfolio, with it, would have fared worst.
    """
    part, profit, one = room.other, room.total, room.one
    known = last_returns(book, symbol, part)
    if known < least:
        return NORMAL_TAIL * volatility * value / int(book.funds[0].equity)
    for t in range(part.size):
        part[t] *= side * value
        profit[t] = part[t]
    for k in range(book.funds[0].busy):
        row = book.rows[book.busy[k]]
        last_returns(book, book.busy[k], one)
        amount = row.side * (row.mark * row.shares + row.entry_price * row.entry_shares)
        for t in range(one.size):
            if one[t] == one[t]:  # without a bar it stood still
                profit[t] += amount * one[t]
    return tail_loss(profit, part, known, room.worst, one) / int(book.funds[0].equity)


@kernel
def tail_loss(profit: Floats, part: Floats, known: int, worst: Floats, tail: Floats) -> float:
    """Mean loss of a part where the whole's profit is in its worst twentieth: at or below the 5th percentile."""
    edge = smallest(profit, worst[: (known - 1) // TAIL + 1], tail)
    total, count = 0.0, 0
    for k in range(profit.size):  # nothing to guess: most are not of the tail
        tail[count] = part[k]
        count += profit[k] <= edge
    for k in range(count):
        total += tail[k]
    return float(-total / count)


@kernel
def smallest(values: Floats, least: Floats, room: Floats) -> float:
    """The last of as many smallest values as `least` has room for; NaNs are none. `room` is as long as the values.

    Those below a rough edge are picked first, by a store that depends on no guess; few are left to be put in order.
    """
    edge, found = rough_edge(values, least.size), 0
    for k in range(values.size):
        room[found] = values[k]
        found += values[k] <= edge
    least[:] = math.inf
    for k in range(found):
        if room[k] < least[-1]:
            place = least.size - 1
            while place > 0 and least[place - 1] > room[k]:
                least[place] = least[place - 1]
                place -= 1
            least[place] = room[k]
    return float(least[-1])


@kernel
def rough_edge(values: Floats, wanted: int) -> float:
    """Some number that at least so many values do not exceed, and where it is easily found, few more.

    Counting takes eight values at a time, so a few counts cost less than one look at each value.
    """
    low, high = 0.0, 0.0
    if up_to(values, high) < wanted:
        return math.inf
    for k in range(values.size):
        low = min(low, values[k])
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        count = up_to(values, middle)
        if count < wanted:
            low = middle
        else:
            high = middle
            if count <= 2 * wanted:
                break
    return high


@kernel
def up_to(values: Floats, edge: float) -> int:
    """How many do not exceed the edge."""
    count = 0
    for k in range(values.size):
        count += values[k] <= edge
    return count
