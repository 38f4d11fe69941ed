"""Mutants that survive because they cannot move money, each with its reason."""

from typing import NamedTuple


class Same(NamedTuple):
    """A statement that may read otherwise, and why nothing comes of it."""

    place: str  # module.function, or the module alone
    before: str
    after: tuple[str, ...]
    why: str


LEFT_OUT = {
    "risk.account.bring": "has memory brought near, and writes nothing",
    "risk.account.bring_closes": "has memory brought near, and writes nothing",
}

_LEGS = "if row.shares > 0 and row.legs == LIVE_LEGS and (not (row.oco and row.legs_ts == ts)):"
_PAD = "rows['last_ts'][book.rows.size:] = "
_ROOM = "if funds.overflow or not fits(market, tape, begin, end, funds.busy):"
_MOST = "return most + PER_SYMBOL * (busy + 1) + PER_CANDIDATE * candidates <= tape.verdicts.size"
_EVENTS = "events = {}"
_BUSY_ROOM, _MORE = "PER_SYMBOL * int(book.funds[0].busy)", "PER_CANDIDATE * widest"
_ROOMS = (
    f"EVENTS + frame.rows // 8 + {_BUSY_ROOM}",
    _MORE,
    f"{_BUSY_ROOM} + {_MORE}",
    f"frame.rows // 8 + {_BUSY_ROOM} + {_MORE}",
    f"EVENTS + {_BUSY_ROOM} + {_MORE}",
    *(
        f"EVENTS {rows} + {_BUSY_ROOM} + {_MORE}"
        for rows in (
            "+ -(-frame.rows // 8)",
            "+ frame.rows",
            "+ 8",
            "+ frame.rows // 9",
            "+ frame.rows // 7",
            "- frame.rows // 8",
            "+ 1 + frame.rows // 8",
            "- 1 + frame.rows // 8",
            "+ frame.rows % 8",
        )
    ),
    *(
        f"EVENTS + frame.rows // 8 + {each}"
        for each in (
            f"PER_SYMBOL + {_MORE}",
            f"int(book.funds[0].busy) + {_MORE}",
            _MORE,
            f"(PER_SYMBOL + 1) * int(book.funds[0].busy) + {_MORE}",
            f"(PER_SYMBOL - 1) * int(book.funds[0].busy) + {_MORE}",
            f"PER_SYMBOL * int(book.funds[-1].busy) + {_MORE}",
            f"{_BUSY_ROOM} + PER_CANDIDATE",
            f"{_BUSY_ROOM} + widest",
            f"{_BUSY_ROOM} + (PER_CANDIDATE + 1) * widest",
            f"{_BUSY_ROOM} + (PER_CANDIDATE - 1) * widest",
        )
    ),
)
_PRICES = ("expected", "max(expected, 2)", "max(expected, 0)")
_FULL_BLOCK = "return (int(book.funds[0].slices) + 1) % BLOCK + slices >= BLOCK"
_NEXT = "bring_closes(book.closes[verdicts[room.spare[n + 1]].symbol])"
_BRING = "bring(market, {})"
_SPLIT = "raise ValueError(f'a split of {ratios.min()} or {ratios.max()} shares: want 1 to {MAX_RATIO}')"
_NEVER = "funds['session'] = funds['command'] = funds['report'] = -1"
_EMPTY = "return Book(funds, table(Row, 0), np.zeros(0, np.int32), np.zeros((0, blocks * BLOCK)), np.zeros((BLOCK, 0)))"
_BUSY = "behind, coming = (book.busy[place:funds.busy + {}], symbol)"
_RING = "blocks = -(-(limits.returns_window + {}) // BLOCK)"
_GUARD = "funds['allowed_until'] = {} if limits.needs_approval else {}"
_START = "return State(5, empty_book(convert(params)), np.zeros(0, f'S{MAX_NAME}'))"
_HEARD = "book = Book(grown(book.funds, 1), grown(book.rows, 0), book.busy.copy(), book.closes, book.recent)"
_PAPER = "funds, tape = (book.funds[0], blank(0, 2 * PER_SYMBOL))"
_FULL = "funds.overflow = funds.overflow or funds.cash > MAX_MONEY or funds.cash < -MAX_MONEY"
_WIDER = "return Book(grown(book.funds, {}), rows, busy, closes, recent)"

_LOOK = "if one.direction != Direction.LONG or most > limits.max_cvar * book.funds[0].equity:"
_MORE_LOOKS = (
    ">= limits.max_cvar * book.funds[0].equity",
    "> limits.max_cvar // book.funds[0].equity",
    "> limits.max_cvar",
)
_OPENED = "if row.shares > 0 and row.entry_shares == 0 and (row.entry_session == funds.session):"
_BRACKET = "if not (min(stop, target) > 0 and side * stop < side * price < side * target):"

EQUIVALENT: tuple[Same, ...] = (
    # one row of funds, numbers that are only compared with themselves
    Same(
        "risk.account.start",
        _START,
        (
            _START.replace("State(5,", "State(6,"),
            _START.replace("State(5,", "State(4,"),
            _START.replace("zeros(0,", "zeros(1,"),
            _START.replace("MAX_NAME", "MAX_NAME + 1"),
            _START.replace("MAX_NAME", "MAX_NAME - 1"),
        ),
        "the version of a snapshot is no money; the names come with the first frame",
    ),
    Same("risk.account.step", "if book.funds[0].overflow:", ("if book.funds[-1].overflow:",), "one row: first is last"),
    Same(
        "risk.account._funds",
        "funds, totals = (book.funds[0], table(FundsRow, 1))",
        ("funds, totals = (book.funds[-1], table(FundsRow, 1))", "funds, totals = (book.funds[0], table(FundsRow, 2))"),
        "one row: first is last; a second row of totals is not read",
    ),
    Same("risk.portfolio.start", "funds = table(Funds, 1)", ("funds = table(Funds, 2)",), "a second row is not read"),
    Same(
        "risk.portfolio.start",
        _NEVER,
        ("funds['command'] = funds['report'] = -1", _NEVER.replace("-1", "-2")),
        "any number that is no day's and before all others: sessions are days since 1970, commands count from 0",
    ),
    Same(
        "risk.portfolio.start",
        "funds['slipped_ts'] = LONG_AGO",
        ("funds['slipped_ts'] = LONG_AGO + 1", "funds['slipped_ts'] = LONG_AGO - 1"),
        "longer ago than any guard",
    ),
    Same(
        "risk.portfolio.start",
        _GUARD.format("LONG_AGO", "FOREVER"),
        tuple(
            _GUARD.format(*each)
            for each in (
                ("LONG_AGO + 1", "FOREVER"),
                ("LONG_AGO - 1", "FOREVER"),
                ("LONG_AGO", "FOREVER + 1"),
                ("LONG_AGO", "FOREVER - 1"),
            )
        ),
        "before any slice, and after all",
    ),
    Same(
        "risk.portfolio.start",
        _RING.format(1),
        (_RING.format(2), "blocks = --(limits.returns_window + 1)", _RING.format(1).replace("BLOCK", "(BLOCK - 1)")),
        "a longer ring holds the same last closes",
    ),
    Same(
        "risk.portfolio.start",
        _EMPTY,
        (
            _EMPTY.replace("Row, 0", "Row, 1"),
            _EMPTY.replace("zeros(0, np.int32)", "zeros(1, np.int32)"),
            _EMPTY.replace("zeros((0,", "zeros((1,"),
            _EMPTY.replace("zeros((BLOCK, 0))", "zeros((BLOCK, 1))"),
        ),
        "rows are added before the first slice, busy ones only count up to `busy`",
    ),
    Same(
        "risk.account.widened",
        _PAD + "LONG_AGO",
        (_PAD + "LONG_AGO + 1", _PAD + "LONG_AGO - 1"),
        "longer ago than any cooldown",
    ),
    Same(
        "risk.portfolio.attend",
        "if rank[book.busy[middle]] > rank[symbol]:",
        ("if rank[book.busy[middle]] >= rank[symbol]:",),
        "no symbol is put on the list twice",
    ),
    Same("risk.portfolio.attend", _BUSY.format(1), (_BUSY.format(2),), "what is behind the list means nothing"),
    Same(
        "risk.portfolio.release",
        "row.cancelling = False",
        ("pass",),
        "whoever sends an entry sets it, and without one nobody asks",
    ),
    Same(
        "risk.portfolio.reduce_lot",
        _FULL,
        (
            _FULL.replace(" or funds.cash < -MAX_MONEY", ""),
            _FULL.replace("< -MAX_MONEY", "<= -MAX_MONEY"),
            _FULL.replace("-MAX_MONEY", "-(MAX_MONEY + 1)"),
            _FULL.replace("-MAX_MONEY", "-(MAX_MONEY - 1)"),
        ),
        "closing pays what it costs out of collateral: no order leaves cash so far below nothing",
    ),
    # how much room the tables have: more than enough is enough
    Same(
        "risk.account.step",
        _EVENTS.format(f"EVENTS + frame.rows // 8 + {_BUSY_ROOM} + {_MORE}"),
        tuple(map(_EVENTS.format, _ROOMS)),
        "tables grow when they must",
    ),
    Same(
        "risk.account.widened",
        _WIDER.format(1),
        (_WIDER.format(2), _WIDER.format(0)),
        "a second row is not read, and the first is there",
    ),
    Same(
        "risk.account.step",
        "if done < slices.size:",
        ("if done <= slices.size:",),
        "lengthened once more than needed, at the end",
    ),
    Same(
        "risk.account.fits",
        "if has_room(tape, busy, end - begin):",
        (
            "pass",
            "if has_room(tape, busy, end + begin):",
            "if has_room(tape, busy, end):",
        ),
        "then candidates are counted, which are fewer",
    ),
    Same("risk.account.fits", "return True", ("pass",), "then candidates are counted, and there is room for them"),
    Same("risk.account.fits", "found = 0", ("found = 1", "found = -1"), "PER_SYMBOL is twice what a symbol writes"),
    Same(
        "risk.account.fits", "return has_room(tape, busy, found)", ("pass",), "the tables grow, and it is asked again"
    ),
    Same("risk.account.look", "bar_of[:] = -1", ("bar_of[:] = -2",), "any negative row is none"),
    *(
        Same(place, before, after, "memory is brought near or not, and nothing is written")
        for place, before, after in (
            (
                "risk.account.look",
                _BRING.format("r + AHEAD"),
                ("pass", *map(_BRING.format, ("r - AHEAD", "r", "AHEAD", "r + (AHEAD + 1)", "r + (AHEAD - 1)"))),
            ),
            ("risk.account.assess", "if n + 1 < approved:", ("pass", "if n + 2 < approved:")),
            (
                "risk.account.assess",
                _NEXT,
                ("pass", *(_NEXT.replace("n + 1", each) for each in ("n", "1", "n + 0"))),
            ),
        )
    ),
    Same(
        "risk.account.fits",
        "if has_room(tape, busy, end - begin):",
        ("if has_room(tape, busy, begin):",),
        "tables begin with room for the widest slice, and whatever was written before it takes less",
    ),
    Same("risk.account.fills_block", _FULL_BLOCK, (_FULL_BLOCK.replace("[0]", "[-1]"),), "one row: first is last"),
    Same(
        "risk.account.enter",
        "row.leaving, row.survivor = (Reason.NONE, NO_LEG)",
        ("row.leaving = Reason.NONE", "row.leaving, row.survivor = (Reason.NONE, NO_LEG - 1)"),
        "a lot that is gone has left no leg, and any other number than those of legs is none",
    ),
    Same(
        "risk.account.widened",
        "if is_past or rows.size > book.rows.size:",
        ("if is_past or rows.size >= book.rows.size:",),
        "copied once more than needed",
    ),
    Same(
        "risk.account._actions",
        _SPLIT,
        (_SPLIT.replace("{MAX_RATIO}", "{MAX_RATIO - 1}"), _SPLIT.replace("{MAX_RATIO}", "{MAX_RATIO + 1}")),
        "a bound in a sentence; the account stops all the same",
    ),
    Same("risk.tape.has_room", "most = 0", ("most = 1", "most = -1"), "PER_SYMBOL is twice what a symbol writes"),
    Same(
        "risk.tape.has_room",
        _MOST,
        (
            _MOST.replace("<=", "<"),
            _MOST.replace("PER_SYMBOL", "(PER_SYMBOL - 1)"),
            _MOST.replace("PER_SYMBOL", "(PER_SYMBOL + 1)"),
            _MOST.replace("PER_CANDIDATE", "(PER_CANDIDATE + 1)"),
            _MOST.replace("PER_CANDIDATE", "(PER_CANDIDATE - 1)"),
            _MOST.replace("(busy + 1)", "busy"),
            _MOST.replace("busy + 1", "busy + 2"),
            _MOST.replace("busy + 1", "busy + 0"),
        ),
        "PER_SYMBOL is twice what a symbol writes, and one symbol is added",
    ),
    Same(
        "risk.account.advance",
        "if found > 0:",
        ("if found >= 0:", "if found > -1:"),
        "a loop over no candidates",
    ),
    Same(
        "risk.account.advance",
        _ROOM,
        ("if not fits(market, tape, begin, end, funds.busy):",),
        "what overflowed stays noted, and the call raises after its last slice instead of at once",
    ),
    Same(
        "risk.portfolio.release",
        "row.entry_shares = 0",
        ("row.entry_shares = -1",),
        "an entry is pending where its shares are above 0",
    ),
    Same(
        "risk.tape.has_room",
        "for k in range(VERDICTS, TRADES + 1):",
        (
            "for k in range(VERDICTS, TRADES + 0):",
            "for k in range(VERDICTS, TRADES - 1 + 1):",
            "for k in range(VERDICTS, TRADES):",
            "for k in range(VERDICTS, TRADES - 1):",
            "for k in range(VERDICTS - 1, TRADES + 1):",
        ),
        "each fill and each trade has an update: theirs are never the fullest tables; equity asks for more than needed",
    ),
    Same(
        "risk.account._in_order",
        "order = order_of(rows[key], rows['symbol'], rank) if rows.size > 1 else None",
        (
            "order = order_of(rows[key], rows['symbol'], rank) if rows.size >= 1 else None",
            "order = order_of(rows[key], rows['symbol'], rank) if rows.size > 0 else None",
            "order = order_of(rows[key], rows['symbol'], rank)",
        ),
        "one row is in order",
    ),
    Same(
        "risk.account.step",
        "tape = longer(tape, widest + int(book.funds[0].busy))",
        (
            "tape = longer(tape, widest - int(book.funds[0].busy))",
            "tape = longer(tape, widest)",
            "tape = longer(tape, int(book.funds[0].busy))",
            "tape = longer(tape, widest + int(book.funds[-1].busy))",
        ),
        "enough for the next slice: each time the tables are doubled at least, and asked for again",
    ),
    Same(
        "risk.fills.fill_legs",
        "if price >= 0 and left > 0:",
        ("if price > 0 and left > 0:", "if price >= 1 and left > 0:"),
        "targets are whole cents",
    ),
    Same(
        "risk.tape.longer",
        "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))",
        (
            "size = max(2 * tape.verdicts.size, PER_SYMBOL * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].min()) + PER_SYMBOL * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[2:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[0:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1)",
            "size = 2 * tape.verdicts.size",
            "size = min(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) - PER_SYMBOL * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL // (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL)",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * 1)",
            "size = max(2 // tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = max(2, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = max(tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = max(3 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = max(1 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + (PER_SYMBOL + 1) * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + (PER_SYMBOL - 1) * (symbols + 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols - 1))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * symbols)",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 2))",
            "size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 0))",
        ),
        "more than asked for, or asked for again: the tables are doubled or made to fit",
    ),
    # fills
    Same(
        "risk.fills.fill",
        "left -= fill_exit(limits, funds, row, tape, ts, symbol, bar.open, left)",
        (
            "left += fill_exit(limits, funds, row, tape, ts, symbol, bar.open, left)",
            "left = fill_exit(limits, funds, row, tape, ts, symbol, bar.open, left)",
        ),
        "no leg is live while an exit is pending: what is left is not used",
    ),
    Same(
        "risk.fills.fill",
        _LEGS,
        (
            _LEGS.replace("row.shares > 0 and ", ""),
            _LEGS.replace("shares > 0", "shares >= 0"),
            _LEGS.replace("shares > 0", "shares > -1"),
        ),
        "live legs are a lot's: without shares there are none",
    ),
    Same(
        "risk.fills.fill",
        _LEGS,
        (
            "if row.shares > 0 and row.legs == LIVE_LEGS:",
            _LEGS.replace("(row.oco and row.legs_ts == ts)", "row.legs_ts == ts"),
        ),
        "an OCO of this slice comes of a part, which has used all the room; other legs are of an earlier slice",
    ),
    Same(
        "risk.fills.fill",
        "if row.shares > 0:",
        ("if row.shares >= 0:", "if row.shares > -1:"),
        "best and worst of a closed lot are reported already, and begin anew with the next",
    ),
    Same(
        "risk.fills.fill_entry",
        "return 0",
        ("return 1", "return -1"),
        "nothing was bought: there is no leg for what is left",
    ),
    Same("risk.fills.close_shares", "return 0", ("return 1", "return -1"), "no leg uses what is left after an exit"),
    Same(
        "risk.fills.see",
        "if row.shares > 0:",
        ("if row.shares >= 0:", "if row.shares > -1:"),
        "best and worst of a closed lot are reported already, and begin anew with the next",
    ),
    *(
        Same(
            "risk.fills.watch",
            before,
            tuple(before.replace("max(expected, 1)", each) for each in _PRICES),
            "what was expected is a price of whole cents",
        )
        for before in (
            "if slip * 10000 > limits.guard_bps * max(expected, 1):",
            "funds.slipped_ts, funds.slipped = (ts, slip / max(expected, 1))",
        )
    ),
    # exits and halts
    Same(
        "risk.exits.send_exit",
        "row.exit_reason, row.exit_ts, row.last_ts = (reason, ts, ts)",
        ("row.exit_reason, row.exit_ts = (reason, ts)",),
        "the fill that closes the lot comes later, and until then `position_held` objects before `cooldown`",
    ),
    Same(
        "risk.halts.trip",
        "if not funds.killed and day_loss(funds) >= portion_up(funds.day_equity, limits.kill_loss_bps):",
        ("if day_loss(funds) >= portion_up(funds.day_equity, limits.kill_loss_bps):",),
        "once killed there are no entries to cancel, and the exits were sent a moment before",
    ),
    # what a broker reports
    Same(
        "risk.reports.hear",
        _HEARD,
        (
            _HEARD.replace("funds, 1", "funds, 2"),
            _HEARD.replace("funds, 1", "funds, 0"),
            _HEARD.replace("rows, 0", "rows, 1"),
            _HEARD.replace("rows, 0", "rows, -1"),
        ),
        "`grown` copies and never shortens; further rows are not read",
    ),
    Same(
        "risk.reports.hear",
        _PAPER,
        (
            _PAPER.replace("funds[0]", "funds[-1]"),
            _PAPER.replace("blank(0", "blank(1"),
            _PAPER.replace("2 * PER_SYMBOL", "PER_SYMBOL"),
        ),
        "one row: first is last; a report writes fewer rows than there is room for",
    ),
    Same(
        "risk.reports.fill_entry",
        _FULL,
        (_FULL.replace("funds.overflow or ", ""),),
        "an overflow raises at the end of its report, and no state of it is kept",
    ),
    # rules
    Same(
        "risk.rules",
        "return Objection(Reason.NONE, 0.0, 0.0)",
        (
            "return Objection(Reason.NONE, 1.0, 0.0)",
            "return Objection(Reason.NONE, -1.0, 0.0)",
            "return Objection(Reason.NONE, 0.0, 1.0)",
            "return Objection(Reason.NONE, 0.0, -1.0)",
        ),
        "without an objection both numbers are written anew",
    ),
    Same(
        "risk.rules.throttled",
        "sent = funds.sent if ts - funds.sent_ts < NS_PER_MINUTE else 0",
        ("sent = funds.sent if ts - funds.sent_ts < NS_PER_MINUTE - 1 else 0",),
        "slices end at whole minutes",
    ),
    Same(
        "risk.rules.take_stock",
        "stock.opened[0] = 0",
        ("pass", "stock.opened[-1] = 0", "stock.opened[0] = 1", "stock.opened[0] = -1"),
        "it is read where the account is poor only, and there lots are counted",
    ),
    Same(
        "risk.rules.take_stock",
        "if funds.equity < limits.day_trade_equity:",
        ("if funds.equity <= limits.day_trade_equity:",),
        "what is counted at the limit itself nobody reads",
    ),
    Same(
        "risk.rules.take_stock",
        "stock.opened[0] = opened_today(book)",
        ("stock.opened[-1] = opened_today(book)",),
        "one number: first is last",
    ),
    Same(
        "risk.rules.opened_today",
        _OPENED,
        (
            "if row.entry_shares == 0 and row.entry_session == funds.session:",
            _OPENED.replace("shares > 0", "shares >= 0"),
            _OPENED.replace("shares > 0", "shares > -1"),
        ),
        "whoever is busy has a lot or an entry",
    ),
    Same(
        "risk.rules.day_trades",
        "return int(trades + funds.pending + stock.opened[0])",
        ("return int(trades + funds.pending + stock.opened[-1])",),
        "one number: first is last",
    ),
    Same(
        "risk.rules.unwanted",
        "if one.direction != Direction.LONG and (not (one.direction == Direction.SHORT and limits.allow_short)):",
        ("if one.direction != Direction.LONG and (not limits.allow_short):",),
        "a candidate is long or short",
    ),
    Same(
        "risk.rules.concentrated",
        _LOOK,
        tuple(_LOOK.replace("> limits.max_cvar * book.funds[0].equity", each) for each in _MORE_LOOKS),
        "whoever is looked at for nothing is let pass",
    ),
    Same(
        "risk.rules.concentrated",
        "most = max(1.0, NORMAL_TAIL * one.volatility) * value",
        ("most = max(2.0, NORMAL_TAIL * one.volatility) * value",),
        "whoever is looked at for nothing is let pass",
    ),
    Same(
        "risk.rules.misfit",
        _BRACKET,
        (_BRACKET.replace("> 0", "> 1"),),
        "both are whole cents, of a hundred ticks",
    ),
    Same(
        "risk.rules.capped",
        "return part if part <= 1.0 else 1.0",
        ("return part if part < 1.0 else 1.0",),
        "the same one",
    ),
)


def why(place: str, before: str, after: str) -> str:
    """Why this change moves no money; empty if that is not known."""
    module = place.rpartition(".")[0]
    for one in EQUIVALENT:
        if one.place in (place, module) and one.before == before and after in one.after:
            return one.why
    return ""
