"""Returns, equity and round trips -> the numbers by which a run is judged.

Pure functions of arrays. Returns are fractions per sample (0.01 is one percent), `periods` is the
number of samples in a year (252 x bars per day), `risk_free` a fraction per year unless it says per
sample. Deviations are sample ones (n - 1). What is undefined is NaN: too few samples, a zero below
the line. NaN in gives NaN out.

`form` says whose formula: "textbook" is that of our contracts, section 12; "lean" that of
QuantConnect LEAN (Common/Statistics), which compounds means to annual performances where the
textbook multiplies them, and has conventions of its own (mostly 0.0) for what is undefined.
"""

import math
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from operators.kernel import kernel
from schemas.frames import Floats, Longs
from schemas.units import NS_PER_SECOND

DAYS = 252  # trading days in a year
RISK_FREE = 0.04  # per year
MOST_RATIO = 10.0  # LEAN: a ratio of profit to no loss at all

Form: TypeAlias = Literal["textbook", "lean"]
Tail: TypeAlias = Literal["normal", "historical"]

_NAN = float("nan")
_NORMAL = NormalDist()
_ROUNDING = 1e-14  # a deviation so small beside what was measured is one of arithmetic
_MANY, _EVERY, _ASIDE = 1 << 14, 64, 50  # values worth a sample of each so many, and a range of so many to each side
_CVAR_LEAST = 30  # returns; below, the tail is the normal distribution's


# Curves.


def returns_of(equity: Floats) -> Floats:
    """Equity -> returns, one less: r[i] = equity[i + 1] / equity[i] - 1."""
    returns: Floats = equity[1:] / equity[:-1] - 1.0
    return returns


def curve_of(returns: Floats, start: float = 1.0) -> Floats:
    """Returns -> equity, one more: `start`, then start x product(1 + r)."""
    curve: Floats = start * np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    return curve


def total_return(returns: Floats) -> float:
    """product(1 + r) - 1, a fraction."""
    return float(np.multiply.reduce(1.0 + returns)) - 1.0 if returns.size else _NAN


def cagr(returns: Floats, periods: float = DAYS) -> float:
    """Compound annual growth: (1 + total)^(periods / n) - 1. LEAN has only the calendar form."""
    return _growth(total_return(returns), periods / returns.size) if returns.size else _NAN


def calendar_cagr(total: float, days: float) -> float:
    """Compound annual growth by the calendar, as LEAN's: (1 + total)^(365 / days) - 1."""
    return _growth(total, 365.0 / days) if days > 0 else _NAN


def annual_performance(returns: Floats, periods: float = DAYS) -> float:
    """LEAN's annual performance: (1 + mean)^periods - 1.

    It compounds the arithmetic mean, so it lies above `cagr` the more the returns vary.
    """
    return _compounded(_mean(returns), periods) if returns.size else _NAN


def annual_variance(returns: Floats, periods: float = DAYS, form: Form = "textbook") -> float:
    """Sample variance x periods. LEAN: 0.0 where there are less than two returns."""
    return _or_zero(_deviation(returns) ** 2 * periods, form)


def annual_volatility(returns: Floats, periods: float = DAYS, form: Form = "textbook") -> float:
    """Sample standard deviation x sqrt(periods); LEAN's "annual standard deviation"."""
    return math.sqrt(annual_variance(returns, periods, form))


# Reward for risk.


def sharpe(returns: Floats, risk_free: float = RISK_FREE, periods: float = DAYS, form: Form = "textbook") -> float:
    """Textbook: (mean - rf/periods) / std x sqrt(periods). LEAN: (annual performance - rf) / annual std.

    LEAN's compounds above the line and not below, so it is the higher for gains and the less low for
    losses; it is 0.0 without variation.
    """
    if form == "lean":
        return _ratio(annual_performance(returns, periods) - risk_free, annual_volatility(returns, periods), form)
    return observed_sharpe(returns, risk_free / periods) * math.sqrt(periods)


def observed_sharpe(returns: Floats, risk_free_per_sample: float = 0.0) -> float:
    """(mean - rf) / std, not annualised."""
    return _ratio(_mean(returns) - risk_free_per_sample, _deviation(returns))


def sortino(returns: Floats, risk_free: float = RISK_FREE, periods: float = DAYS, form: Form = "textbook") -> float:
    """As the Sharpe ratio, but divided by the downside.

    Textbook: sqrt(mean(min(r - rf/periods, 0)^2)) x sqrt(periods), over all returns. LEAN: the annual
    standard deviation of the negative returns alone, which does not see losses of equal size; 0.0 then.
    """
    if form == "lean":
        downside = annual_volatility(returns[returns < 0], periods)
        return _ratio(annual_performance(returns, periods) - risk_free, downside, form)
    excess = returns - risk_free / periods
    return _ratio(_mean(excess), _downside(excess)) * math.sqrt(periods)


def rolling_sharpe(returns: Floats, window: int, risk_free: float = RISK_FREE, periods: float = DAYS) -> Floats:
    """The textbook's `sharpe` of every `window` consecutive returns, at least two, the first one at index 0."""
    windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(returns, window))
    mean = np.add.reduce(windows, axis=1) / window
    off = windows - mean[:, None]
    deviation = np.sqrt(np.add.reduce(off * off, axis=1) / (window - 1))
    size = np.maximum.reduce(np.abs(windows), axis=1)
    deviation[deviation <= _ROUNDING * np.maximum(size, 1.0)] = _NAN
    ratios: Floats = (mean - risk_free / periods) / deviation * np.sqrt(periods)
    return ratios


def probabilistic_sharpe(
    returns: Floats,
    benchmark_sharpe: float | None = None,
    risk_free_per_sample: float = 0.0,
    periods: float = DAYS,
    form: Form = "textbook",
) -> float:
    """The probability, 0 to 1, that the true Sharpe ratio is above `benchmark_sharpe`.

    Phi((s - s*) / sigma), sigma = sqrt((1 - skew s + (kurtosis - 1)/4 s^2) / (n - 1)), where s is the
    observed Sharpe ratio and s* the benchmark's, both not annualised; s* is by default an annual 1.
    Skewness and kurtosis are bias-corrected, so that four returns are the fewest.
    Source: Bailey and Lopez de Prado, The Sharpe ratio efficient frontier (2012), where the kurtosis
    of a normal distribution is 3. LEAN puts the *excess* kurtosis into the same place; it is 0.0 where
    sigma is undefined, and 0.5 where it is zero.
    """
    target = 1.0 / math.sqrt(periods) if benchmark_sharpe is None else benchmark_sharpe
    observed = observed_sharpe(returns, risk_free_per_sample)
    skew, kurtosis = _skewness(returns), _excess_kurtosis(returns) + (0.0 if form == "lean" else 3.0)
    spread = 1.0 - skew * observed + (kurtosis - 1.0) / 4.0 * observed**2
    if np.isnan(spread) or np.isnan(target) or spread < 0:
        return 0.0 if form == "lean" else _NAN
    sigma = np.sqrt(spread / (returns.size - 1))
    if sigma == 0:
        return 0.5 if form == "lean" else _NAN
    return _NORMAL.cdf((observed - target) / sigma)


# Drawdown.


def drawdowns(equity: Floats) -> Floats:
    """(peak - equity) / peak at every sample, a fraction; the peak is the highest so far."""
    peak = np.maximum.accumulate(equity)
    result: Floats = (peak - equity) / np.where(peak > 0, peak, _NAN)
    return result


def max_drawdown(equity: Floats) -> float:
    """The highest of `drawdowns`, a positive fraction. LEAN rounds the same to three decimals."""
    return float(deepest_fall(np.require(equity, np.float64, ["C", "W"]))) if equity.size else _NAN


@kernel
def deepest_fall(equity: Floats) -> float:
    """The fall of each peak's lowest sample, which is its deepest; NaN where a peak is not above zero or is none."""
    peak, low, deepest = equity[0], equity[0], 0.0
    for i in range(equity.size):
        if equity[i] <= peak:
            low = min(low, equity[i])
        else:
            deepest = higher(deepest, (peak - low) / peak)
            peak = low = equity[i]
            if np.isnan(peak):
                break
    return higher(deepest, (peak - low) / peak) if equity[0] > 0 else np.nan


def max_drawdown_duration(equity: Floats) -> int:
    """The longest stretch of consecutive samples below the peak; one that has not ended counts too."""
    return int(longest_fall(np.require(equity, np.float64, ["C", "W"]))) if equity.size else 0


@kernel
def longest_fall(equity: Floats) -> int:
    """How many samples in a row are below the highest before them, at most."""
    peak, longest, since = equity[0], 0, 0
    for i in range(equity.size):
        if not equity[i] < peak:
            peak, longest, since = higher(peak, equity[i]), max(longest, i - since), i + 1
    return max(longest, equity.size - since)


def max_drawdown_recovery_days(equity: Floats, days: Floats) -> float:
    """The longest time from a peak to the first sample that is as high again; `days` is when samples are.

    0.0 where nothing was ever lost and won back: a drawdown that has not recovered does not count.
    The time runs from the last touch of the peak. Source: LEAN, DrawdownRecovery.
    """
    tops = np.flatnonzero(equity >= np.maximum.accumulate(equity))  # every touch of the highest so far
    dipped = np.diff(tops) > 1
    return float(np.diff(days[tops])[dipped].max(initial=0.0))


def calmar(growth: float, drawdown: float) -> float:
    """`cagr` / `max_drawdown`; NaN when nothing was ever lost."""
    return _ratio(growth, drawdown)


# Beside a benchmark: returns of the same samples.


def beta(returns: Floats, benchmark: Floats, form: Form = "textbook") -> float:
    """cov(r, b) / var(b), both with n - 1. LEAN: 0.0 where the benchmark does not move."""
    _same_size(returns, benchmark)
    return _ratio(_covariance(returns, benchmark), _deviation(benchmark) ** 2, form)


def rolling_beta(returns: Floats, benchmark: Floats, window: int) -> Floats:
    """`beta` of every `window` consecutive samples, the first one at index 0.

    Equal to correlation x std(r) / std(b), as LEAN's report writes it.
    """
    _same_size(returns, benchmark)
    ends = range(window, returns.size + 1)
    return np.array([beta(returns[end - window : end], benchmark[end - window : end]) for end in ends], np.float64)


def alpha(
    returns: Floats,
    benchmark: Floats,
    risk_free: float = RISK_FREE,
    periods: float = DAYS,
    form: Form = "textbook",
) -> float:
    """What a year brings beyond beta, a fraction.

    Textbook: (mean r - rf/periods - beta (mean b - rf/periods)) x periods. LEAN: the same with annual
    performances, p - (rf + beta (p_b - rf)); 0.0 where beta is 0.0.
    """
    slope = beta(returns, benchmark, form)
    if form == "lean":
        own, other = annual_performance(returns, periods), annual_performance(benchmark, periods)
        return own - (risk_free + slope * (other - risk_free)) if slope else 0.0
    free = risk_free / periods
    return (_mean(returns) - free - slope * (_mean(benchmark) - free)) * periods


def tracking_error(returns: Floats, benchmark: Floats, periods: float = DAYS, form: Form = "textbook") -> float:
    """sqrt(periods x sample variance of (r - b)). LEAN: 0.0 if lengths differ; the textbook raises."""
    if form == "lean" and returns.size != benchmark.size:
        return 0.0
    _same_size(returns, benchmark)
    return annual_volatility(returns - benchmark, periods, form)


def information_ratio(returns: Floats, benchmark: Floats, periods: float = DAYS, form: Form = "textbook") -> float:
    """Textbook: mean(r - b) x periods / tracking error. LEAN: difference of annual performances / the same."""
    error = tracking_error(returns, benchmark, periods, form)
    if form == "lean":
        gain = annual_performance(returns, periods) - annual_performance(benchmark, periods)
        return _ratio(gain, error, form)
    return _ratio(_mean(returns - benchmark) * periods, error)


def treynor(
    returns: Floats,
    benchmark: Floats,
    risk_free: float = RISK_FREE,
    periods: float = DAYS,
    form: Form = "textbook",
) -> float:
    """Textbook: (mean r x periods - rf) / beta. LEAN: (annual performance - rf) / beta."""
    if form == "lean":
        return _ratio(annual_performance(returns, periods) - risk_free, beta(returns, benchmark, form), form)
    return _ratio(_mean(returns) * periods - risk_free, beta(returns, benchmark))


def correlation(returns: Floats, benchmark: Floats) -> float:
    """Pearson's, -1 to 1."""
    _same_size(returns, benchmark)
    return _ratio(_covariance(returns, benchmark), _deviation(returns) * _deviation(benchmark))


# The tail.


def value_at_risk(returns: Floats, confidence: float = 0.95, form: Tail = "normal") -> float:
    """The return that is undercut with probability 1 - confidence; below zero when it is a loss.

    "normal": mean + z(1 - confidence) x std, which LEAN takes over the last 252 returns. "historical":
    the quantile of the returns themselves, between two of them in proportion.
    """
    if form == "historical":
        return quantile(returns, 1.0 - confidence) if returns.size else _NAN
    return _mean(returns) + _NORMAL.inv_cdf(1.0 - confidence) * _deviation(returns)


def rolling_value_at_risk(returns: Floats, window: int = DAYS, confidence: float = 0.95) -> Floats:
    """The normal value at risk of the last `window` returns at every return; of fewer at the start."""
    ends = range(1, returns.size + 1)
    values = [value_at_risk(returns[max(end - window, 0) : end], confidence) for end in ends]
    return np.array(values, np.float64)


def cvar(returns: Floats, confidence: float = 0.95) -> float:
    """The mean loss beyond the value at risk, a fraction; above zero when it is a loss.

    From 30 returns on -mean(r where r <= the quantile); before that std x phi(z) / (1 - confidence),
    2.0627 x std at 0.95, which leaves the mean aside. Source: contracts, section 9.2.
    """
    rest = 1.0 - confidence
    if returns.size >= _CVAR_LEAST:
        bound = quantile(returns, rest)
        return -_mean(returns[returns <= bound]) if math.isfinite(bound) else _NAN
    return _deviation(returns) * _NORMAL.pdf(_NORMAL.inv_cdf(rest)) / rest


def quantile(values: Floats, share: float) -> float:
    """As `np.quantile`, bit for bit: between two values in proportion, NaN where one is NaN.

    That one takes its array through some twenty calls, which for the returns of a year is most of the work.
    """
    place = (values.size - 1) * share
    at = int(place)
    some, less = _around(values, at)
    rest = np.partition(some, at - less)[at - less :]
    if math.isnan(_most(values)):
        return _NAN
    below = float(rest[0])
    above = float(np.minimum.reduce(rest[1:])) if rest.size > 1 else below
    if not below or not above:  # of two zeros it is numpy's way that decides which one stands there
        return float(np.quantile(values, share))
    step, part = above - below, place - at
    return above - step * (1.0 - part) if part >= 0.5 else below + step * part


def _around(values: Floats, at: int) -> tuple[Floats, int]:
    """The few of many values that are near the one at this place of their order, and how many are less than these.

    A sample tells between which two they lie; where that is not so, or values are few, these are all of them.
    """
    sample = np.sort(values[::_EVERY]) if values.size >= _MANY else values[:0]
    first, last = at // _EVERY - _ASIDE, at // _EVERY + _ASIDE
    low = sample[first] if 0 <= first < sample.size else -math.inf
    high = sample[last] if last < sample.size else math.inf
    if low == -math.inf and high == math.inf:
        return values, 0
    less, some = int(np.count_nonzero(values < low)), values[(values >= low) & (values <= high)]
    return (some, less) if less <= at < less + some.size - 1 else (values, 0)


# Use of capital.


def turnover(traded: Floats, equity: Floats) -> float:
    """Mean over days of (value bought + value sold) / equity; 2.0 is all in and all out every day.

    Source: LEAN's portfolio turnover. `traded` and `equity` in USD, one entry per day.
    """
    _same_size(traded, equity)
    return _mean(traded / equity)


def exposure(held: Floats, equity: Floats) -> float:
    """Mean over bars of the value held / equity, in USD both; 1.0 is fully invested."""
    _same_size(held, equity)
    return _mean(held / equity)


def time_in_market(held: Floats) -> float:
    """The share of bars at which anything was held."""
    return int(np.count_nonzero(held)) / held.size if held.size else _NAN


# All of a portfolio, and the names of before.


def portfolio_statistics(
    returns: Floats, benchmark: Floats, risk_free: float = RISK_FREE, periods: float = DAYS
) -> dict[str, float]:
    """LEAN's PortfolioStatistics of daily returns: every statistic in LEAN's form.

    The probabilistic Sharpe ratio is against an annual 1, without a risk-free rate, as LEAN's.
    """
    recent = returns[-DAYS:]
    return {
        "annual_performance": annual_performance(returns, periods),
        "annual_variance": annual_variance(returns, periods, "lean"),
        "annual_std": annual_volatility(returns, periods, "lean"),
        "sharpe": sharpe(returns, risk_free, periods, "lean"),
        "sortino": sortino(returns, risk_free, periods, "lean"),
        "probabilistic_sharpe": probabilistic_sharpe(returns, periods=periods, form="lean"),
        "beta": beta(returns, benchmark, "lean"),
        "alpha": alpha(returns, benchmark, risk_free, periods, "lean"),
        "tracking_error": tracking_error(returns, benchmark, periods, "lean"),
        "information_ratio": information_ratio(returns, benchmark, periods, "lean"),
        "treynor": treynor(returns, benchmark, risk_free, periods, "lean"),
        "var_95": value_at_risk(recent, 0.95),
        "var_99": value_at_risk(recent, 0.99),
    }


class Trades(NamedTuple):
    """Round trips in the order in which they were closed; money in USD, after fees where fees are counted.

    What is not known is NaN, and so is then what follows from it.
    """

    entry_ts: Longs  # UTC ns
    exit_ts: Longs
    pnl: Floats  # with both fees inside; LEAN's is without
    fees: Floats
    cost: Floats  # paid at entry
    mae: Floats  # most adverse excursion, <= 0 as a rule
    mfe: Floats  # most favourable excursion
    end_drawdown: Floats  # given back from the best price to the exit, >= 0

    @property
    def size(self) -> int:
        """How many."""
        return int(self.pnl.size)


def trade_statistics(trades: Trades, form: Form = "textbook") -> dict[str, float]:
    """Statistics of round trips by name; money in USD, durations in seconds, times in UTC ns.

    As LEAN's TradeStatistics: a trade that earns nothing is a loss; drawdowns are of the closed
    profit, at most 0, and last until a winning trade reaches a new high (an open one does not count).
    Forms differ in two things. Where there is nothing to divide by, or no trade of a kind, the textbook
    has NaN; LEAN 0.0, and 10 for profit without a loss. The downside deviation is sqrt(mean(min(pnl,
    0)^2)) over all trades, but LEAN's is the sample deviation of the losing trades alone.

    `expectancy` is win rate x average profit + loss rate x average loss, USD per trade;
    `expectancy_ratio` the same in units of the average loss, as LEAN has it.
    """
    return both_forms(trades)[form == "lean"]


def both_forms(trades: Trades) -> tuple[dict[str, float], dict[str, float]]:
    """`trade_statistics` of the textbook and of LEAN."""
    won, lost = _parted(trades)
    book = _measured(trades, won, lost)
    downside = _deviation(lost.pnl, of_money=True)
    of_losses = {
        "profit_loss_downside_deviation": downside,
        "sortino_ratio": _ratio(book["average_profit_loss"], downside),
    }
    return book, _as_lean(book | of_losses)


class _Side(NamedTuple):
    """The trades that were won, or those that were not, in their order."""

    pnl: Floats
    seconds: Floats
    in_a_row: int  # at most


def _parted(trades: Trades) -> tuple[_Side, _Side]:
    """The won and the lost ones."""
    room, counts = np.empty((4, trades.size)), np.zeros(4, np.int64)
    lasted = np.require(trades.exit_ts - trades.entry_ts, np.int64, ["C", "W"])
    part(np.require(trades.pnl, np.float64, ["C", "W"]), lasted, room, counts)
    won, lost, won_in_a_row, lost_in_a_row = counts.tolist()
    return _Side(room[0, :won], room[1, :won], won_in_a_row), _Side(room[2, :lost], room[3, :lost], lost_in_a_row)


@kernel
def part(pnl: Floats, lasted: Longs, room: Floats, counts: Longs) -> None:
    """Profits and seconds of the won and of the lost; how many these are, and how many in a row at most.

    Each is written to both sides, and counts on one: there is nothing to guess.
    """
    won = lost = won_in_a_row = lost_in_a_row = since_won = since_lost = 0
    for i in range(pnl.size):
        seconds = lasted[i] / NS_PER_SECOND
        room[0, won], room[1, won], room[2, lost], room[3, lost] = pnl[i], seconds, pnl[i], seconds
        wins, loses = pnl[i] > 0, pnl[i] <= 0
        won, lost = won + wins, lost + loses
        since_won, since_lost = (since_won + 1) * wins, (since_lost + 1) * loses
        won_in_a_row, lost_in_a_row = max(won_in_a_row, since_won), max(lost_in_a_row, since_lost)
    counts[0], counts[1], counts[2], counts[3] = won, lost, won_in_a_row, lost_in_a_row


def _measured(trades: Trades, wins: _Side, losses: _Side) -> dict[str, float]:
    pnl, number = trades.pnl, trades.size
    gains, pains = wins.pnl, losses.pnl
    won, lost = gains.size, pains.size
    total, profit, loss = float(pnl.sum()), float(gains.sum()), float(pains.sum())
    mean, gain, pain = _mean(pnl), _mean(gains), _mean(pains)
    deviation = _deviation(pnl, of_money=True)
    downside = _downside(pnl)
    fall, inner, lasted = _closed_drawdown(trades)
    rate = _ratio(won, number)
    return {
        "start_ts": float(trades.entry_ts.min()) if number else _NAN,
        "end_ts": float(trades.exit_ts.max()) if number else _NAN,
        "total_number_of_trades": float(number),
        "number_of_winning_trades": float(won),
        "number_of_losing_trades": float(lost),
        "total_profit_loss": total,
        "total_profit": profit,
        "total_loss": loss,
        "largest_profit": _most(gains),
        "largest_loss": -_most(-pains),
        "average_profit_loss": mean,
        "average_profit": gain,
        "average_loss": pain,
        "average_trade_return": _mean(pnl / trades.cost),
        "average_trade_duration_seconds": _mean((trades.exit_ts - trades.entry_ts) / NS_PER_SECOND),
        "average_winning_trade_duration_seconds": _mean(wins.seconds),
        "average_losing_trade_duration_seconds": _mean(losses.seconds),
        "max_consecutive_winning_trades": float(wins.in_a_row),
        "max_consecutive_losing_trades": float(losses.in_a_row),
        "profit_loss_ratio": _ratio(gain, abs(pain)),
        "win_loss_ratio": _ratio(won, lost),
        "win_rate": rate,
        "loss_rate": _ratio(lost, number),
        "expectancy": mean,
        "expectancy_ratio": _ratio(mean, abs(pain)),
        "average_mae": _mean(trades.mae),
        "average_mfe": _mean(trades.mfe),
        "largest_mae": -_most(-trades.mae),
        "largest_mfe": _most(trades.mfe),
        "max_closed_trade_drawdown": fall,
        "max_intra_trade_drawdown": inner,
        "profit_loss_standard_deviation": deviation,
        "profit_loss_downside_deviation": downside,
        "profit_factor": _ratio(profit, abs(loss)),
        "sharpe_ratio": _ratio(mean, deviation),
        "sortino_ratio": _ratio(mean, downside),
        "profit_to_max_drawdown_ratio": _ratio(total, abs(fall)),
        "max_end_trade_drawdown": _most(trades.end_drawdown),
        "average_end_trade_drawdown": mean - _mean(trades.mfe),
        "max_drawdown_duration_seconds": lasted,
        "total_fees": float(trades.fees.sum()),
    }


_EXCURSIONS = ("average_mae", "average_mfe", "largest_mae", "largest_mfe", "max_intra_trade_drawdown",
               "max_end_trade_drawdown", "average_end_trade_drawdown", "average_trade_return")  # fmt: skip
_TIMES = ("start_ts", "end_ts")


def _as_lean(found: dict[str, float]) -> dict[str, float]:
    """What is undefined, by LEAN's conventions; what was not measured stays NaN."""
    traded = found["total_number_of_trades"] > 0
    kept = (*_TIMES, *(_EXCURSIONS if traded else ()))
    lean = {name: 0.0 if np.isnan(value) and name not in kept else value for name, value in found.items()}
    if traded and not found["number_of_losing_trades"]:
        lean["win_loss_ratio"] = MOST_RATIO
    if found["total_loss"] == 0 and found["total_profit"] > 0:
        lean["profit_factor"] = MOST_RATIO
    if found["max_closed_trade_drawdown"] == 0 and found["total_profit_loss"] > 0:
        lean["profit_to_max_drawdown_ratio"] = MOST_RATIO
    return lean


def _closed_drawdown(trades: Trades) -> tuple[float, float, float]:
    """Of the closed profit: deepest fall, deepest fall with excursions (both <= 0), longest in seconds."""
    if not trades.size:
        return _NAN, _NAN, _NAN
    columns = (trades.pnl, trades.mae, trades.mfe)
    pnl, mae, mfe = (np.require(column, np.float64, ["C", "W"]) for column in columns)
    entries, exits = (np.require(column, np.int64, ["C", "W"]) for column in (trades.entry_ts, trades.exit_ts))
    deepest = np.zeros(2)
    lasted = closed_drawdown(pnl, mae, mfe, entries, exits, deepest)
    return float(deepest[0]), float(deepest[1]), float(lasted) / NS_PER_SECOND


@kernel
def closed_drawdown(pnl: Floats, mae: Floats, mfe: Floats, entry_ts: Longs, exit_ts: Longs, deepest: Floats) -> int:
    """Fill in both falls; returns the longest time, ns, from one high to the next with a loss between them."""
    after, peak, best, fall, inner = 0.0, 0.0, 0.0, 0.0, 0.0
    longest, since, lost = 0, entry_ts[0], False
    for i in range(pnl.size):
        before = after
        after = before + pnl[i]
        if pnl[i] <= 0:
            lost = True
        if pnl[i] > 0 and after > peak:
            if lost:
                longest = max(longest, exit_ts[i] - since)
            since, lost = exit_ts[i], False
        peak, best = higher(peak, after), higher(best, before + mfe[i])
        fall, inner = -higher(-fall, peak - after), -higher(-inner, best - (before + mae[i]))
    deepest[0], deepest[1] = fall, inner
    return longest


@kernel
def higher(x: float, y: float) -> float:
    """The higher of two; NaN where one is."""
    return x if x > y or np.isnan(x) else y


def legacy_names(
    equity: Floats, trades: Trades | None = None, held: Floats | None = None, periods: float = DAYS
) -> dict[str, float]:
    """The ten numbers under the names of the old system; ratios and `_pct` are fractions.

    `sharpe_like` is the Sharpe ratio without a risk-free rate. `held` is the value held, one entry per
    sample of `equity`; what is not given is NaN.
    """
    returns = returns_of(equity)
    numbers = {} if trades is None else trade_statistics(trades)
    return {
        "total_return": total_return(returns),
        "cagr": cagr(returns, periods),
        "win_rate": numbers.get("win_rate", _NAN),
        "max_drawdown": max_drawdown(equity),
        "num_trades": numbers.get("total_number_of_trades", _NAN),
        "avg_trade_return": numbers.get("average_trade_return", _NAN),
        "sharpe_like": sharpe(returns, 0.0, periods),
        "exposure_pct": _NAN if held is None else exposure(held, equity),
        "avg_holding_seconds": numbers.get("average_trade_duration_seconds", _NAN),
        "final_equity": float(equity[-1]) if equity.size else _NAN,
    }


# Parts.


# The same sums as numpy's own `mean` and `std` without their wrappers, most of the time where it is a year's returns.


def _mean(values: Floats) -> float:
    return float(np.add.reduce(values)) / values.size if values.size else _NAN


def _most(values: Floats) -> float:
    return float(np.maximum.reduce(values)) if values.size else _NAN


def _ratio(above: float, below: float, form: Form = "textbook") -> float:
    """NaN, or LEAN's 0.0, where nothing stands below the line."""
    return _or_zero(above / below if below else _NAN, form)


def _or_zero(value: float, form: Form) -> float:
    return 0.0 if form == "lean" and np.isnan(value) else value


def _compounded(growth: float, power: float) -> float:
    """(1 + growth)^power - 1; infinite or NaN where no number is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.power(np.float64(1.0 + growth), power)) - 1.0


def _growth(total: float, power: float) -> float:
    """As `_compounded`; NaN after losing more than everything."""
    return _compounded(total, power) if total >= -1 else _NAN


def _deviation(values: Floats, of_money: bool = False) -> float:
    """Sample standard deviation; NaN below two values, exactly zero where only rounding differs.

    A return is a ratio less one, and carries the rounding of that one; money carries its own.
    """
    if values.size < 2:
        return _NAN
    off = values - _mean(values)
    deviation = math.sqrt(float(np.add.reduce(off * off)) / (values.size - 1))
    size = _most(np.abs(values))
    return 0.0 if deviation <= _ROUNDING * (size if of_money else max(size, 1.0)) else deviation


def _downside(values: Floats) -> float:
    """sqrt(mean(min(x, 0)^2)), over all values."""
    return math.sqrt(_mean(np.minimum(values, 0.0) ** 2)) if values.size else _NAN


def _covariance(x: Floats, y: Floats) -> float:
    return float(np.add.reduce((x - _mean(x)) * (y - _mean(y)))) / (x.size - 1) if x.size > 1 else _NAN


def _skewness(values: Floats) -> float:
    """Bias-corrected: n / ((n-1)(n-2)) sum(z^3)."""
    n, deviation = values.size, _deviation(values)
    if n < 3 or not deviation:
        return _NAN
    z = (values - _mean(values)) / deviation
    return float(np.add.reduce(z**3)) * n / ((n - 1) * (n - 2))


def _excess_kurtosis(values: Floats) -> float:
    """Bias-corrected, 0 for a normal distribution: n(n+1)/((n-1)(n-2)(n-3)) sum(z^4) - 3(n-1)^2/((n-2)(n-3))."""
    n, deviation = values.size, _deviation(values)
    if n < 4 or not deviation:
        return _NAN
    z = (values - _mean(values)) / deviation
    first = float(np.add.reduce(z**4)) * n * (n + 1) / ((n - 1) * (n - 2) * (n - 3))
    return first - 3.0 * (n - 1) ** 2 / ((n - 2) * (n - 3))


def _same_size(x: Floats, y: Floats) -> None:
    if x.size != y.size:
        raise ValueError(f"{x.size} samples beside {y.size}: want as many")
