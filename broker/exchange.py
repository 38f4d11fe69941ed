"""An exchange for tests and for dry runs at home, with Alpaca's semantics; its ledger is exact.

No clock, socket or chance in here: time and prices are told to it, and the same calls give the same answers,
ids included. `exchange_server` puts it behind HTTP and a websocket. What is written here as Alpaca's follows
its published description; which state a leg has in between is as users report it, and nobody may rely on it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from broker.port import FINAL
from broker.wire import stamp, ticks, usd
from schemas.units import TICKS_PER_CENT, TICKS_PER_USD

Answer = tuple[int, Any]  # HTTP status, body
ASSET_ID = "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415"
REPLACEABLE = ("new", "partially_filled", "held")
DAY_LIMIT = 25_000 * TICKS_PER_USD  # equity below which day trades are counted


@dataclass
class Order:
    """One order; prices in ticks, 0 where there is none."""

    id: str
    client_id: str
    symbol: str
    side: str
    qty: int
    kind: str
    shape: str
    limit: int
    stop: int
    status: str
    submitted: int
    updated: int
    parent: str = ""
    legs: list[str] = field(default_factory=list)
    filled: int = 0
    cost: int = 0
    triggered: bool = False
    replaces: str = ""
    replaced_by: str = ""
    before: str = ""  # the state that a refused cancel would go back to

    @property
    def open(self) -> bool:
        """Whether it can still be filled or cancelled."""
        return self.status not in FINAL

    @property
    def left(self) -> int:
        """Shares not filled yet."""
        return self.qty - self.filled


@dataclass
class Asset:
    """What may be done with a symbol."""

    tradable: bool = True
    shortable: bool = False
    fractionable: bool = False


class Fill(NamedTuple):
    """One line of the ledger."""

    id: str
    ts: int
    order_id: str
    symbol: str
    side: str
    qty: int
    price: int
    filled_qty: int  # of the order, after it


class Exchange:
    """Orders, positions, cash and quotes of one account. Events wait in `events` for whoever sends them on."""

    def __init__(
        self, cash_usd: int = 100_000, seed: int = 0, now: int = 1_704_205_800_000_000_000, partial_one_in: int = 0
    ):
        self.seed = seed
        self.now = now  # UTC ns; 2024-01-02 09:30 in New York unless told otherwise
        self.cash = self.initial_cash = cash_usd * TICKS_PER_USD
        self.last_equity = self.cash
        self.partial_one_in = partial_one_in  # of so many market orders one is filled in two parts
        self.is_open = True
        self.quotes: dict[str, int] = {}
        self.liquidity: dict[str, int] = {}  # shares that may still be filled at this price; absent: any
        self.assets: dict[str, Asset] = {}
        self.orders: dict[str, Order] = {}
        self.by_client: dict[str, str] = {}
        self.held: dict[str, int] = {}  # shares
        self.cost: dict[str, int] = {}
        self.fills: list[Fill] = []
        self.events: list[dict[str, Any]] = []
        self.cancel_lag = False  # a cancel waits in pending_cancel for `settle`, and a fill may win
        self.judges_id_last = False  # a known id is refused for its price or its cost first, if those do not pass
        self.blocked = False
        self.day_trades = 0
        self._ids = 0

    # What a test or a feed says.

    def tick(self, ns: int) -> None:
        """Let time pass."""
        self.now += ns

    def quote(self, symbol: str, price: int, shares: int | None = None) -> None:
        """The market trades at a price, in ticks; `shares` of ours may be filled there, or any number."""
        self.assets.setdefault(symbol, Asset())
        self.quotes[symbol] = price
        if shares is None:
            self.liquidity.pop(symbol, None)
        else:
            self.liquidity[symbol] = shares
        self.match(symbol)

    def open_market(self) -> None:
        """A session begins: what was queued becomes live."""
        self.is_open = True
        for order in list(self.orders.values()):
            if order.status == "accepted":
                self._to(order, "new")
        for symbol in sorted(self.quotes):
            self.match(symbol)

    def close_market(self) -> None:
        """A session ends: day orders expire."""
        self.is_open = False
        for order in list(self.orders.values()):
            if order.open and order.status != "accepted":
                self._to(order, "expired")
        self.last_equity = self.equity
        self.day_trades = 0

    def settle(self) -> None:
        """Cancels that wait are carried out."""
        for order in list(self.orders.values()):
            if order.status == "pending_cancel":
                self._canceled(order)

    def refuse_cancels(self) -> None:
        """Cancels that wait are refused; the orders go back to where they were."""
        for order in self.orders.values():
            if order.status == "pending_cancel":
                order.status = order.before
                self._tell("order_cancel_rejected", order)

    def fill(self, order_id: str, qty: int, price: int) -> None:
        """Fill shares of an order at a price, whatever the market says; siblings stay, so both legs can be filled."""
        self._fill(self.orders[order_id], qty, price, alone=True)

    @property
    def equity(self) -> int:
        """Cash and shares at their last price."""
        return self.cash + sum(qty * self.quotes.get(symbol, 0) for symbol, qty in self.held.items())

    # What a client asks.

    def place(self, body: Mapping[str, Any]) -> Answer:
        """A new order, or why not."""
        try:
            order, legs = self._read(body)
        except _Refusal as refusal:
            return refusal.answer
        except (KeyError, TypeError, InvalidOperation, ValueError) as error:
            return _error(422, 40010001, f"invalid parameters: {error}")
        for each in (order, *legs):
            self.orders[each.id] = each
            self.by_client[each.client_id] = each.id
        if self.is_open:
            self._tell("pending_new", order)
            self._to(order, "new")
        else:
            order.status = "accepted"
            self._tell("accepted", order)
        answer = self.shown(order, nested=True)
        self.match(order.symbol)
        return 200, answer

    def cancel(self, order_id: str) -> Answer:
        """204 is a promise, not yet an end."""
        order = self.orders.get(order_id)
        if order is None:
            return _error(404, 40410000, f"order not found for {order_id}")
        if not order.open:
            return _error(422, 42210000, f'order is already in "{order.status}" state')
        if order.status != "pending_cancel":
            order.before = order.status
            self._to(order, "pending_cancel")
        if not self.cancel_lag:
            self._canceled(order)
        return 204, None

    def replace(self, order_id: str, body: Mapping[str, Any]) -> Answer:
        """Another order takes an order's place; the shares that are filled stay with the old one."""
        old = self.orders.get(order_id)
        if old is None:
            return _error(404, 40410000, f"order not found for {order_id}")
        if old.status not in REPLACEABLE:
            return _error(422, 42210000, f"order is not replaceable in status {old.status}")
        client_id = str(body.get("client_order_id") or "")
        if client_id in self.by_client:
            return _error(422, 40010001, "client_order_id must be unique")
        qty = int(Decimal(str(body["qty"]))) if body.get("qty") else old.qty
        if qty <= old.filled:
            return _error(422, 42210000, "qty must be > filled qty")
        try:
            limit, stop = (
                _price(body, name) or before for name, before in (("limit_price", old.limit), ("stop_price", old.stop))
            )
        except _Refusal as refusal:
            return refusal.answer
        new_id = self._id()
        new = replace(old, id=new_id, client_id=client_id or new_id, qty=qty - old.filled, limit=limit, stop=stop,
                      filled=0, cost=0, replaces=old.id, submitted=self.now, legs=list(old.legs))  # fmt: skip
        self.orders[new.id] = new
        self.by_client[new.client_id] = new.id
        old.replaced_by = new.id
        if old.parent:
            siblings = self.orders[old.parent].legs
            siblings[siblings.index(old.id)] = new.id
        for leg in new.legs:
            self.orders[leg].parent = new.id
        old.legs = []
        self._to(old, "replaced")
        self._to(new, "new" if new.status == "partially_filled" else new.status)
        answer = self.shown(new, nested=True)
        self.match(new.symbol)
        return 200, answer

    def listed(
        self, status: str, limit: int, after: int, until: int, *, descending: bool, nested: bool, symbols: set[str]
    ) -> list[dict[str, Any]]:
        """Orders by time of submission; both bounds exclusive, 0 for none."""
        found = [
            order for order in self.orders.values()
            if (status == "all" or order.open == (status == "open")) and (not symbols or order.symbol in symbols)
            and order.submitted > after and (not until or order.submitted < until) and not (nested and order.parent)
        ]  # fmt: skip
        found.sort(key=lambda order: (order.submitted, order.id), reverse=descending)
        return [self.shown(order, nested=nested) for order in found[:limit]]

    def shown(self, order: Order, *, nested: bool) -> dict[str, Any]:
        """An order as JSON has it."""
        average = None if not order.filled else f"{Decimal(order.cost) / order.filled / TICKS_PER_USD:.4f}".rstrip("0")
        ends = {f"{name}_at": stamp(order.updated) if order.status == name else None
                for name in ("filled", "expired", "canceled", "replaced")}  # fmt: skip
        legs = [self.shown(self.orders[leg], nested=True) for leg in order.legs] if nested else []
        return {
            "id": order.id, "client_order_id": order.client_id, "created_at": stamp(order.submitted),
            "updated_at": stamp(order.updated), "submitted_at": stamp(order.submitted), **ends, "failed_at": None,
            "replaced_by": order.replaced_by or None, "replaces": order.replaces or None, "asset_id": ASSET_ID,
            "symbol": order.symbol, "asset_class": "us_equity", "notional": None, "qty": str(order.qty),
            "filled_qty": str(order.filled), "filled_avg_price": average and average.rstrip("."),
            "order_class": order.shape, "order_type": order.kind, "type": order.kind, "side": order.side,
            "position_intent": f"{order.side}_to_{'open' if order.side == 'buy' else 'close'}",
            "time_in_force": "day", "limit_price": usd(order.limit) if order.limit else None,
            "stop_price": usd(order.stop) if order.stop else None, "status": order.status, "extended_hours": False,
            "legs": legs or None,
            "trail_percent": None, "trail_price": None, "hwm": None,
        }  # fmt: skip

    def position(self, symbol: str) -> dict[str, Any]:
        """A position as JSON has it."""
        qty, cost, price = self.held[symbol], self.cost[symbol], self.quotes.get(symbol, 0)
        average = Decimal(cost) / abs(qty) / TICKS_PER_USD
        gain = qty * price - (cost if qty > 0 else -cost)
        return {
            "asset_id": ASSET_ID, "symbol": symbol, "exchange": "NASDAQ", "asset_class": "us_equity",
            "asset_marginable": True, "qty": str(qty), "qty_available": str(self._free(symbol)),
            "side": "long" if qty > 0 else "short", "avg_entry_price": f"{average:.6f}",
            "cost_basis": usd(cost if qty > 0 else -cost), "market_value": usd(qty * price),
            "current_price": usd(price), "lastday_price": usd(price), "change_today": "0",
            "unrealized_pl": usd(gain), "unrealized_plpc": "0",
            "unrealized_intraday_pl": usd(gain), "unrealized_intraday_plpc": "0",
        }  # fmt: skip

    def account(self) -> dict[str, Any]:
        """The account as JSON has it."""
        worth = self.equity - self.cash
        return {
            "id": self._digest("account"), "account_number": f"TEST{self.seed:06d}",
            "status": "ACTIVE", "currency": "USD", "cash": usd(self.cash), "equity": usd(self.equity),
            "last_equity": usd(self.last_equity), "portfolio_value": usd(self.equity),
            "buying_power": usd(max(self.cash - self._reserved(), 0)), "long_market_value": usd(worth),
            "short_market_value": "0", "multiplier": "1", "daytrade_count": self.day_trades,
            "pattern_day_trader": False, "trading_blocked": self.blocked, "account_blocked": False,
            "transfers_blocked": False, "trade_suspended_by_user": False, "shorting_enabled": False,
            "created_at": stamp(self.now),
        }  # fmt: skip

    def activities(self, after: int, *, descending: bool) -> list[dict[str, Any]]:
        """Fills as the list of account activities has them."""
        rows = [
            {
                "id": f"{fill.ts}::{fill.id}", "activity_type": "FILL", "transaction_time": stamp(fill.ts),
                "type": "fill", "price": usd(fill.price), "qty": str(fill.qty), "side": fill.side,
                "symbol": fill.symbol, "order_id": fill.order_id, "cum_qty": str(fill.filled_qty),
                "leaves_qty": str(self.orders[fill.order_id].qty - fill.filled_qty),
                "order_status": self.orders[fill.order_id].status,
            }
            for fill in self.fills if fill.ts > after
        ]  # fmt: skip
        return rows[::-1] if descending else rows

    def close_position(self, symbol: str) -> Answer:
        """A market order for all shares, if no open order holds them."""
        qty = self.held.get(symbol, 0)
        if not qty:
            return _error(404, 40410000, "position does not exist")
        side = "sell" if qty > 0 else "buy"
        body = {"symbol": symbol, "qty": abs(qty), "side": side, "type": "market", "time_in_force": "day"}
        return self.place(body)

    # How orders are taken.

    def _read(self, body: Mapping[str, Any]) -> tuple[Order, list[Order]]:
        symbol, side, kind = str(body["symbol"]), str(body["side"]), str(body["type"])
        shape = str(body.get("order_class") or "simple")
        asset = self.assets.get(symbol)
        if asset is None:
            raise _Refusal(422, 42210000, f"asset {symbol} not found")
        if not asset.tradable:
            raise _Refusal(422, 42210000, f"asset {symbol} is not tradable")
        client_id = str(body.get("client_order_id") or "")
        if len(client_id) > 128:
            raise _Refusal(422, 40010001, "client_order_id must be no more than 128 characters")
        if client_id in self.by_client and not self.judges_id_last:
            raise _Refusal(422, 40010001, "client_order_id must be unique")
        number = Decimal(str(body["qty"]))
        if number <= 0:
            raise _Refusal(422, 42210000, "qty must be > 0")
        if number != int(number):
            raise _Refusal(422, 42210000, f"asset {symbol} is not fractionable")
        limit, stop = _price(body, "limit_price"), _price(body, "stop_price")
        target, protect = self._legs_of(body, shape, side, kind, limit, symbol)
        if shape == "oco":
            kind, limit = "limit", target
        if (kind == "limit") != bool(limit) or (kind == "stop") != bool(stop):
            raise _Refusal(422, 40010001, f"{kind} orders require their price and no other")
        if side not in ("buy", "sell") or kind not in ("market", "limit", "stop"):
            raise _Refusal(422, 40010001, "invalid side or type")
        if symbol not in self.quotes:
            raise _Refusal(422, 42210000, f"asset {symbol} is not active")
        self._afford(symbol, side, int(number), limit or stop or self.quotes[symbol], shape)
        if client_id in self.by_client:
            raise _Refusal(422, 40010001, "client_order_id must be unique")
        order_id = self._id()
        order = Order(order_id, client_id or order_id, symbol, side, int(number), kind, shape, limit, stop,
                      "pending_new", self.now, self.now)  # fmt: skip
        legs = []
        if shape in ("bracket", "oco"):
            other = "sell" if shape == "oco" or side == "buy" else "buy"
            for leg_kind, a, b in (("limit", target, 0), ("stop", 0, protect)):
                if shape == "oco" and leg_kind == "limit":
                    continue  # the order itself is the limit
                leg_id = self._id()
                legs.append(Order(leg_id, leg_id, symbol, other, int(number), leg_kind, shape, a, b, "held", self.now,
                                  self.now, parent=order_id))  # fmt: skip
        order.legs = [leg.id for leg in legs]
        return order, legs

    def _legs_of(
        self, body: Mapping[str, Any], shape: str, side: str, kind: str, limit: int, symbol: str
    ) -> tuple[int, int]:
        """Target and stop of a bracket or an OCO, checked against each other and the market."""
        if shape == "simple":
            return 0, 0
        if shape not in ("bracket", "oco"):
            raise _Refusal(422, 40010001, f"order class {shape} is not supported")
        if shape == "bracket" and kind not in ("market", "limit"):
            raise _Refusal(422, 40010001, "bracket orders must be market or limit orders")
        if side == "sell" and shape == "bracket":
            raise _Refusal(422, 42210000, "bracket orders must be entry orders")
        if not body.get("take_profit") or not body.get("stop_loss"):
            raise _Refusal(422, 40010001, f"{shape} orders require take_profit.limit_price and stop_loss.stop_price")
        target, stop = _price(body["take_profit"], "limit_price"), _price(body["stop_loss"], "stop_price")
        if not target > stop > 0:
            raise _Refusal(422, 42210000, "take_profit.limit_price must be > stop_loss.stop_price")
        bases = [self.quotes[symbol]] if symbol in self.quotes else []
        for base in [*bases, *([limit] if limit and shape == "bracket" else [])]:
            if stop > base - TICKS_PER_CENT:
                raise _Refusal(422, 42210000, "stop_loss.stop_price must be <= base_price - 0.01", base_price=usd(base))
            if shape == "bracket" and target < base + TICKS_PER_CENT:
                raise _Refusal(422, 42210000, "take_profit.limit_price must be >= base_price + 0.01",
                               base_price=usd(base))  # fmt: skip
        return target, stop

    def _afford(self, symbol: str, side: str, qty: int, price: int, shape: str) -> None:
        """Cash for a purchase, shares for a sale, and nothing against our own open orders."""
        if self.blocked:
            raise _Refusal(403, None, "forbidden.")
        opposite = [o for o in self.orders.values() if o.symbol == symbol and o.open and o.side != side]
        if side == "buy":
            power = self.cash - self._reserved()
            if price * qty > power:
                raise _Refusal(403, 40310000, "insufficient buying power", buying_power=usd(max(power, 0)),
                               cost_basis=usd(price * qty))  # fmt: skip
            if shape == "simple" and opposite:
                raise _Refusal(403, 40310000, "potential wash trade detected. use complex orders",
                               existing_order_id=opposite[0].id, reject_reason="opposite side")  # fmt: skip
            if self.day_trades >= 3 and self.equity < DAY_LIMIT:
                raise _Refusal(403, 40310100, "trade denied due to pattern day trading protection")
            return
        held, free = self.held.get(symbol, 0), self._free(symbol)
        if held <= 0 and not self.assets[symbol].shortable:
            raise _Refusal(422, 42210000, f"asset {symbol} cannot be sold short")
        if qty > free:
            raise _Refusal(403, 40310000, f"insufficient qty available for order (requested: {qty}, available: {free})",
                           existing_qty=str(held), held_for_orders=str(held - free), symbol=symbol)  # fmt: skip
        if shape == "simple" and [o for o in opposite if o.status != "held" and not o.parent and o.filled == 0]:
            raise _Refusal(403, 40310000, "potential wash trade detected. use complex orders")

    def _reserved(self) -> int:
        return sum(o.left * (o.limit or self.quotes.get(o.symbol, 0))
                   for o in self.orders.values() if o.open and o.side == "buy" and not o.parent)  # fmt: skip

    def _free(self, symbol: str) -> int:
        """Shares no open sale holds; the two legs of a pair hold them once, those of an entry what it has filled."""
        pairs: dict[str, int] = {}
        for order in self.orders.values():
            if order.symbol == symbol and order.side == "sell" and order.open:
                pair = order.parent or order.id
                left = self.orders[order.parent].filled if self._asleep(order) else order.left
                pairs[pair] = max(pairs.get(pair, 0), left)
        return self.held.get(symbol, 0) - sum(pairs.values())

    # How they are filled.

    def match(self, symbol: str) -> None:
        """Fill what the price allows, oldest first."""
        price = self.quotes.get(symbol, 0)
        if not self.is_open or not price:
            return
        for order in list(self.orders.values()):
            if order.symbol != symbol or not order.open or order.status in ("accepted", "pending_new"):
                continue
            if self._asleep(order) or not _marketable(order, price):
                continue
            if order.kind == "stop" and not order.triggered:
                order.triggered = True
                self._end_siblings(order)
            room = min(order.left, self.liquidity.get(symbol, order.left))
            if room > 1 and self._halved(order):
                self._fill(order, room // 2, price)
                room -= room // 2
            if room:
                self._fill(order, room, price)

    def _asleep(self, order: Order) -> bool:
        """A bracket's leg while its entry is not complete."""
        parent = self.orders.get(order.parent)
        return parent is not None and parent.shape == "bracket" and parent.status != "filled"

    def _halved(self, order: Order) -> bool:
        if not self.partial_one_in or order.kind != "market" or order.left < 2:
            return False
        return int(self._digest(f"half:{order.id}")[:8], 16) % self.partial_one_in == 0

    def _fill(self, order: Order, qty: int, price: int, *, alone: bool = False) -> None:
        """Book shares, then what follows for the other orders of its family."""
        if order.symbol in self.liquidity:
            self.liquidity[order.symbol] -= qty
        held, sign = self.held.get(order.symbol, 0), 1 if order.side == "buy" else -1
        cost = self.cost.get(order.symbol, 0)
        if held * sign >= 0:
            cost += qty * price
        else:
            closing = min(abs(held), qty)
            cost -= cost * closing // abs(held)
            cost += (qty - closing) * price
        self.held[order.symbol], self.cost[order.symbol] = held + sign * qty, cost
        if not self.held[order.symbol]:
            del self.held[order.symbol], self.cost[order.symbol]
        self.cash -= sign * qty * price
        order.filled += qty
        order.cost += qty * price
        self._touch(order)
        fill = Fill(self._id(), order.updated, order.id, order.symbol, order.side, qty, price, order.filled)
        self.fills.append(fill)
        done = not order.left
        if done or order.status != "pending_cancel":
            order.status = "filled" if done else "partially_filled"
        more = {"execution_id": fill.id, "price": usd(price), "qty": str(qty),
                "position_qty": str(self.held.get(order.symbol, 0))}  # fmt: skip
        self._tell("fill" if done else "partial_fill", order, more)
        if alone:
            return
        if done and order.shape == "bracket" and not order.parent:
            for leg in order.legs:
                if self.orders[leg].kind == "limit":
                    self._to(self.orders[leg], "new")  # the stop stays held until it is triggered
            self.match(order.symbol)
        elif done:
            self._end_siblings(order)
        else:
            for sibling in self._siblings(order):
                sibling.qty = min(sibling.qty, sibling.filled + order.left)
                self._touch(sibling)

    def _siblings(self, order: Order) -> list[Order]:
        """The other side of a pair, open."""
        if order.parent:
            parent = self.orders[order.parent]
            family = [self.orders[leg] for leg in parent.legs] + ([parent] if parent.shape == "oco" else [])
        else:
            family = [self.orders[leg] for leg in order.legs] if order.shape == "oco" else []
        return [other for other in family if other.id != order.id and other.open]

    def _end_siblings(self, order: Order) -> None:
        for sibling in self._siblings(order):
            self._to(sibling, "canceled", alone=True)  # else its end would come back as this one's

    def _canceled(self, order: Order) -> None:
        """The end of an order is the end of its open legs and of its sibling."""
        self._to(order, "canceled")

    def _to(self, order: Order, status: str, *, alone: bool = False) -> None:
        """Another state, told once; an order's end takes its family along."""
        order.status = status
        self._touch(order)
        self._tell(status, order)
        if status in ("canceled", "expired", "rejected") and not alone:
            family = [self.orders[leg] for leg in order.legs] + self._siblings(order)
            for other in family:
                if other.open:
                    self._to(other, status)

    def _touch(self, order: Order) -> None:
        """No two changes share an instant."""
        self.now += 1_000
        order.updated = self.now

    def _tell(self, event: str, order: Order, more: Mapping[str, str] | None = None) -> None:
        self.events.append(
            {
                "event": event,
                "timestamp": stamp(order.updated),
                "order": self.shown(order, nested=False),
                **(more or {}),
            }
        )

    def _id(self) -> str:
        self._ids += 1
        return self._digest(str(self._ids))

    def _digest(self, text: str) -> str:
        """An id in the form of a UUID, by content."""
        h = hashlib.sha256(f"{self.seed}:{text}".encode()).hexdigest()
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-8{h[17:20]}-{h[20:32]}"


class _Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, code: int | None, message: str, **more: str):
        super().__init__(message)
        self.answer = _error(status, code, message, **more)


def _error(status: int, code: int | None, message: str, **more: str) -> Answer:
    return status, {**({} if code is None else {"code": code}), "message": message, **more}


def _marketable(order: Order, price: int) -> bool:
    if order.kind == "market" or order.triggered:
        return True
    if order.kind == "limit":
        return price <= order.limit if order.side == "buy" else price >= order.limit
    return price >= order.stop if order.side == "buy" else price <= order.stop


def _price(body: Mapping[str, Any], name: str) -> int:
    """A price in ticks, 0 if there is none; refused off the grid."""
    value = body.get(name)
    if value is None:
        return 0
    exact = Decimal(str(value)) * TICKS_PER_USD
    price = ticks(value)
    if price <= 0 or exact != price or (price >= TICKS_PER_USD and price % TICKS_PER_CENT):
        raise _Refusal(
            422, 42210000, f"invalid {name} {value}. sub-penny increment does not fulfill minimum pricing criteria"
        )
    return price
