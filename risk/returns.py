"""What the last closes say of symbols together: their correlation, and the expected shortfall.

A return counts where its symbol had a bar in a slice and in the one before. Sums run from the oldest to
the newest, names from the candidate to the others in alphabetical order: the bits depend on it.
"""

import math

from operators.kernel import ahead, kernel
from risk.portfolio import BLOCK, Book
from risk.scratch import TAIL, Returns
from schemas.frames import Floats, Longs

GUESSES = 12  # of where a tail ends, at most
SAMPLED = 16  # one value in so many makes the first
DOWN, UP = 1.3, 0.75  # from a guess with too many values below it, from one with too few
NORMAL_TAIL = 2.0627  # φ(Φ⁻¹(0.05)) / 0.05: the mean of a normal distribution's worst twentieth, in deviations
SLACK = 1e-9  # what rounding may do to a sum of squares, and far more


@kernel
def mean_correlation(book: Book, room: Returns, least: int, limit: float, symbol: int, side: int) -> float:
    """Mean over all pairs of the candidate and the names held or wanted; -1 if it is surely below the limit.

    A short one's returns count with the other sign. A name with fewer than `least` returns, or with none
    that moves, is left out; without the candidate or without any other there is no mean: -1.
    """
    total, one, closes = room.total, room.one, room.closes
    if not standardise(book, least, symbol, side, closes, total):
        return -1.0
    busy, names = book.funds[0].busy, 1
    for k in range(busy):
        if standardise(book, least, book.busy[k], book.rows[book.busy[k]].side, closes, one):
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
def standardise(book: Book, least: int, symbol: int, side: int, closes: Floats, out: Floats) -> bool:
    """Returns less their mean, scaled so that their squares sum to 1, 0 where there is none.

    False if that cannot be.
    """
    known = last_returns(book, symbol, closes, out)
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
def last_returns(book: Book, symbol: int, closes: Floats, out: Floats) -> int:
    """One-slice returns of the last slices, the oldest first, NaN where a bar is missing; how many are known."""
    last_closes(book, symbol, closes)
    for k in range(out.size):
        out[k] = closes[k + 1] / closes[k] - 1.0
    known = 0
    for k in range(out.size):
        known += out[k] == out[k]
    return known


@kernel
def last_closes(book: Book, symbol: int, out: Floats) -> None:
    """The closes of the last slices, the oldest first: the newest few stand by slice, those before by symbol."""
    ring, upto = book.closes[symbol], book.funds[0].slices + 1
    some = upto % BLOCK
    few = min(some, out.size)
    more, place = out.size - few, (upto - out.size) % ring.size
    wrap = min(more, ring.size - place)
    for k in range(wrap):
        out[k] = ring[place + k]
    for k in range(wrap, more):
        out[k] = ring[k - wrap]
    for k in range(few):
        out[more + k] = book.recent[some - few + k, symbol]


@kernel
def bring_closes(ring: Floats) -> None:
    """Have a symbol's closes brought near."""
    for k in range(0, ring.size, BLOCK):
        ahead(ring, k)


@kernel
def own_shortfall(book: Book, room: Returns, least: int, symbol: int, side: int, volatility: float) -> float:
    """CVaR-95 of one share held or sold short, a fraction of its price."""
    profit = room.total
    known = last_returns(book, symbol, room.closes, profit)
    if known < least:
        return NORMAL_TAIL * volatility
    for k in range(profit.size):
        profit[k] *= side
    return tail_loss(profit, profit, known, room.worst, room.places)


@kernel
def marginal_shortfall(
    book: Book, room: Returns, least: int, symbol: int, side: int, value: int, volatility: float
) -> float:
    """The candidate's part in the portfolio's CVaR-95, a fraction of equity.

    Its mean loss in those of the last slices in which the portfolio, with it, would have fared worst.
    """
    part, profit, one = room.other, room.total, room.one
    known = last_returns(book, symbol, room.closes, part)
    if known < least:
        return NORMAL_TAIL * volatility * value / int(book.funds[0].equity)
    for t in range(part.size):
        part[t] *= side * value
        profit[t] = part[t]
    for k in range(book.funds[0].busy):
        row = book.rows[book.busy[k]]
        last_returns(book, book.busy[k], room.closes, one)
        amount = row.side * (row.mark * row.shares + row.entry_price * row.entry_shares)
        for t in range(one.size):
            if one[t] == one[t]:  # without a bar it stood still
                profit[t] += amount * one[t]
    return tail_loss(profit, part, known, room.worst, room.places) / int(book.funds[0].equity)


@kernel
def tail_loss(profit: Floats, part: Floats, known: int, worst: Floats, places: Longs) -> float:
    """Mean loss of a part where the whole's profit is in its worst twentieth: at or below the 5th percentile.

    Those below a rough edge are picked first, by a store that depends on no guess; of the few the edge is found.
    """
    wanted, found = (known - 1) // TAIL + 1, 0
    edge = rough_edge(profit, wanted)
    for k in range(profit.size):
        places[found] = k
        found += profit[k] <= edge
    if found > wanted:
        edge = smallest(profit, places[:found], worst[:wanted])
    total, count = 0.0, 0
    for k in places[:found]:
        if profit[k] <= edge:
            total += part[k]
            count += 1
    return float(-total / count)


@kernel
def smallest(values: Floats, places: Longs, least: Floats) -> float:
    """The last of as many smallest of the values in these places as `least` has room for."""
    least[:] = math.inf
    for k in places:
        if values[k] < least[-1]:
            place = least.size - 1
            while place > 0 and least[place - 1] > values[k]:
                least[place] = least[place - 1]
                place -= 1
            least[place] = values[k]
    return float(least[-1])


@kernel
def rough_edge(values: Floats, wanted: int) -> float:
    """Some number that at least so many values do not exceed, and where it is easily found, no more.

    Counting takes eight values at a time, so a few counts cost less than one look at each value. The first guess is
    the least of a sample; then down or up until the edge lies between two guesses, and in the middle of these.
    """
    low, high, edge = -math.inf, 0.0, 0.0
    if up_to(values, high) < wanted:
        return math.inf
    for k in range(0, values.size, SAMPLED):
        edge = min(edge, values[k])
    for _ in range(GUESSES):
        count = up_to(values, edge)
        if count >= wanted:
            high = edge
            if count == wanted:
                break
        else:
            low = edge
        if low == -math.inf:
            edge = DOWN * high
        elif high == 0.0:
            edge = UP * low
        else:
            edge = (low + high) / 2.0
    return high


@kernel
def up_to(values: Floats, edge: float) -> int:
    """How many do not exceed the edge."""
    count = 0
    for k in range(values.size):
        count += values[k] <= edge
    return count
