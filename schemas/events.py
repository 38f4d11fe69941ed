"""Codes that columns hold, and the words they stand for at the edges."""

from enum import IntEnum


class Direction(IntEnum):
    """Which way a view, a score or a signal points."""

    SHORT = -1
    FLAT = 0
    LONG = 1


class Side(IntEnum):
    """Side of an order."""

    SELL = -1
    BUY = 1


class Regime(IntEnum):
    """State of one symbol's trend; UNKNOWN until enough bars were seen."""

    UNKNOWN = 0
    BULL = 1
    BEAR = 2
    SIDEWAYS = 3


class Kind(IntEnum):
    """How an order is priced."""

    MARKET = 0
    LIMIT = 1
    STOP = 2


class Leg(IntEnum):
    """Which part of a round trip an order is; part of its id."""

    ENTRY = 0
    TAKE_PROFIT = 1
    STOP_LOSS = 2
    OCO_TAKE_PROFIT = 3  # protects a partly filled entry
    OCO_STOP_LOSS = 4
    EXIT = 5


class Status(IntEnum):
    """What became of an order."""

    PARTIALLY_FILLED = 0
    FILLED = 1
    CANCELED = 2
    EXPIRED = 3
    REJECTED = 4


class Phase(IntEnum):
    """Where a slice stands in its session."""

    MIDDLE = 0
    EVE = 1  # the next bar is the session's last: the last chance to be flat tonight
    LAST = 2


class Absence(IntEnum):
    """Why a row has no forecast."""

    NONE = 0  # it has one
    NO_MODEL = 1  # none is in force yet
    NOT_WARM = 2  # no unbroken window of bars since the model came
    STALE = 3  # the last one is too old
    ERROR = 4  # the model gave no numbers
    DRIFTED = 5  # the model was stopped


class Reason(IntEnum):
    """Why something stopped, was refused, or went out. Appended only: values are stored."""

    NONE = 0
    # no signal
    NOT_WARM = 1
    NO_INSIGHT = 2
    NEUTRAL = 3
    BELOW_PUBLISH_GATE = 4
    BELOW_DECISION_GATE = 5
    NO_FORECAST = 6  # one is required and there is none that is fresh
    EXPECTED_RETURN = 7  # the forecast's median does not pay for the round trip
    LOW_PROBABILITY = 8  # calibrated
    # filters
    OUTSIDE_MARKET_HOURS = 10
    NO_TIME_TO_EXIT = 11
    LOW_LIQUIDITY = 12
    WIDE_SPREAD = 13
    EARNINGS_BLACKOUT = 14
    JUMP = 15  # the price is far from the last accepted one
    LOG_GAP = 16  # a slice record was unreadable: the symbol's past has a declared hole
    # rules
    KILL_SWITCH = 20
    STATE_UNKNOWN = 21
    DRAWDOWN = 22
    DAILY_LOSS = 23
    NO_POSITION = 24
    LOW_CONFIDENCE = 25
    VOLATILITY = 26
    POSITION_HELD = 27
    ORDER_PENDING = 28
    POSITION_CAPACITY = 29
    TOTAL_EXPOSURE = 30
    SYMBOL_EXPOSURE = 31
    BUYING_POWER = 32
    ORDERS_PER_MINUTE = 33
    ORDERS_PER_SYMBOL = 34
    OPEN_ORDERS = 35
    COOLDOWN = 36
    TOO_SMALL = 37
    BRACKET_UNPLACEABLE = 38
    SLIPPAGE_GUARD = 39
    PATTERN_DAY_TRADER = 40
    SECTOR_EXPOSURE = 41
    CORRELATION = 42
    CVAR = 43
    REVOKED = 44  # a human has taken back the leave to enter
    # exits
    STOP_LOSS = 50
    TRAILING_STOP = 51
    TAKE_PROFIT = 52
    TIME_EXIT = 53
    END_OF_DAY = 54
    SIGNAL_FLIP = 55
    # the venue's answers
    STALE_BASE = 60
    INSUFFICIENT_CASH = 61
    DAY_ORDER = 62
    PARTIAL_ENTRY = 63
    SIBLING = 64  # the other leg filled, or an exit took over
    SPLIT = 65  # an entry decided on the price before a split
    # bars refused
    BAD_TIME = 80
    OFF_SESSION = 81
    DUPLICATE = 82
    OUT_OF_ORDER = 83
    NOT_A_NUMBER = 84
    BAD_PRICE = 85
    BAD_RANGE = 86
    BAD_VOLUME = 87
    # records refused by the ingestion
    UNKNOWN_SYMBOL = 90
    UNREADABLE = 91
    # gates between an order and the broker
    WRONG_HOST = 100  # not the paper host
    WRONG_KEYS = 101  # a live account's keys, or keys of the other kind of broker
    TRADING_DISABLED = 102  # the master switch
    DRY_RUN = 103
    NOT_APPROVED = 104  # no approval, or one that is expired, forged or for something else
    CIRCUIT_OPEN = 105  # too many failures of the broker; it is left alone for a while
    QUEUE_FULL = 106
    # the broker's answers
    UNAUTHORIZED = 110
    NOT_TRADABLE = 111
    NOT_SHORTABLE = 112
    FRACTIONAL = 113
    SUB_PENNY = 114
    WASH_TRADE = 115
    SHARES_HELD = 116  # by other open orders
    RATE_LIMIT = 117
    BROKER_DOWN = 118
    ORDER_CONFLICT = 119  # another order has this id
    NOT_FOUND = 120
    TOO_LATE = 121  # the order is past cancelling
    REFUSED = 122  # for a cause that has no code here; the message says it


def word(code: IntEnum) -> str:
    """The stored and printed form: `Reason.NO_POSITION` -> `no_position`."""
    return code.name.lower()
