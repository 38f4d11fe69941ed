"""The exchange behind HTTP and a websocket on this machine, spoken to by Alpaca's own client; and its faults.

It listens on loopback and takes dummy keys only. Faults are asked for by a function of the request, before it
is carried out or after, which is the difference that loses money elsewhere: an order that was placed although
its sender saw a time-out.
"""

import asyncio
import hmac
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from aiohttp import WSMessage, WSMsgType, web

from broker.exchange import ASSET_ID, Answer, Exchange
from broker.safety import DUMMY, Keys
from broker.wire import instant, stamp

RATE = 200  # requests a minute
PAGE, MAX_PAGE = 50, 500


class Fault(NamedTuple):
    """What goes wrong with a request; `after`: once it has been carried out."""

    kind: str  # drop, slow, status, garbage, redirect, echo
    after: bool = True
    value: float = 0.0  # seconds, or the status


Faults = Callable[[str, str], Fault | None]  # method, path
Scramble = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]  # stream messages -> what is sent of them, how


class ExchangeServer:
    """Serves an exchange from a thread of its own, as a context. `control` is the other way in."""

    def __init__(self, exchange: Exchange, keys: Keys, port: int = 0, rate: int = RATE):
        if not keys.key_id.startswith(DUMMY):
            raise ValueError(f"the exchange takes dummy keys only, which begin with {DUMMY}")
        self.exchange, self.keys, self.port, self.rate = exchange, keys, port, rate
        self.faults: Faults | None = None
        self.scramble: Scramble | None = None
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.RLock()
        self._streams: set[web.WebSocketResponse] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._ended = asyncio.Event()
        self._telling = asyncio.Lock()
        self._failure: Exception | None = None
        self._window, self._used = -1, 0
        self._thread = threading.Thread(target=self._serve, name="exchange", daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ExchangeServer":
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    @contextmanager
    def control(self) -> Iterator[Exchange]:
        """The exchange itself, while nobody else has it; what happened is then told to the streams."""
        with self._lock:
            yield self.exchange
        self._soon(self._tell())

    def close_streams(self) -> None:
        """Every stream is cut off."""
        self._soon(self._cut())

    # The thread.

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
            left = asyncio.all_tasks(self._loop)  # requests that were slow on purpose
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self._ready.set()
            self._loop.close()

    async def _run(self) -> None:
        app = web.Application(middlewares=[self._guard])
        add = app.router.add_route
        add("GET", "/stream", self._stream)
        add("POST", "/v2/orders", self._place)
        add("GET", "/v2/orders", self._orders)
        add("DELETE", "/v2/orders", self._cancel_all)
        add("GET", "/v2/orders:by_client_order_id", self._by_client)
        add("GET", "/v2/orders/{id}", self._order)
        add("PATCH", "/v2/orders/{id}", self._replace)
        add("DELETE", "/v2/orders/{id}", self._cancel)
        add("GET", "/v2/positions", self._positions)
        add("GET", "/v2/positions/{symbol}", self._position)
        add("DELETE", "/v2/positions", self._close_all)
        add("DELETE", "/v2/positions/{symbol}", self._close)
        add("GET", "/v2/account", self._account)
        add("GET", "/v2/account/activities/FILL", self._activities)
        add("GET", "/v2/clock", self._clock)
        add("GET", "/v2/assets/{symbol}", self._asset)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.05)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._ended.wait()
            await self._cut()
        except OSError as error:
            self._failure = error
        finally:
            await runner.cleanup()

    def _soon(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop)

    # Every request: keys, rate, faults.

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if request.path == "/stream":
            try:
                return await handler(request)  # type: ignore[no-any-return]
            except ConnectionError:  # whoever listened has gone
                return web.Response()
        self.requests.append((request.method, request.path))
        fault = self.faults(request.method, request.path) if self.faults else None
        if fault is not None and not fault.after and (answer := await self._go_wrong(request, fault)) is not None:
            return answer
        limit = self._limited()
        headers = {"X-Ratelimit-Limit": str(self.rate), "X-Ratelimit-Remaining": str(max(self.rate - self._used, 0)),
                   "X-Ratelimit-Reset": str((self._window + 1) * 60)}  # fmt: skip
        if limit:
            return _json((429, {"code": 42910000, "message": "too many requests."}), headers)
        given = (request.headers.get("APCA-API-KEY-ID", ""), request.headers.get("APCA-API-SECRET-KEY", ""))
        if not self._known(*given):
            return _json((401, {"code": 40110000, "message": "access key verification failed"}), headers)
        try:
            await request.read()  # so that the lock is not held over a wait
        except ConnectionError:  # it was given up before it had arrived
            return web.Response()
        with self._lock:
            answer = await handler(request)
        await self._tell()
        if fault is not None and fault.after:
            answer = await self._go_wrong(request, fault) or answer
        assert answer is not None  # noqa: S101
        answer.headers.update(headers)
        return answer

    def _known(self, key_id: str, secret: str) -> bool:
        return hmac.compare_digest(key_id.encode(), self.keys.key_id.encode()) and hmac.compare_digest(
            secret.encode(), self.keys.secret.encode()
        )

    def _limited(self) -> bool:
        """Fixed windows of a minute."""
        window = int(time.time() // 60)
        self._used = 1 if window != self._window else self._used + 1
        self._window = window
        return self._used > self.rate

    async def _go_wrong(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        if fault.kind == "slow":
            await asyncio.sleep(fault.value)
            return None
        if fault.kind == "drop":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if fault.kind == "garbage":
            return web.Response(text="<html>bad gateway</html>", content_type="text/html")
        if fault.kind == "redirect":
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/v2/orders"})
        if fault.kind == "echo":  # a careless server: it repeats the keys it was given
            text = "; ".join(f"{name}: {value}" for name, value in request.headers.items())
            return _json((422, {"code": 42210000, "message": f"bad request with {text}"}), {})
        return _json((int(fault.value), {"message": "fault"}), {})

    # The stream.

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        authorized = False
        try:
            async for message in socket:
                authorized = await self._said(socket, message, authorized=authorized)
        finally:
            self._streams.discard(socket)
        return socket

    async def _said(self, socket: web.WebSocketResponse, message: WSMessage, *, authorized: bool) -> bool:
        """One message of a listener; whether it is let in after it."""
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return authorized
        said = json.loads(message.data)
        action, data = said.get("action"), said.get("data") or said
        if action in ("authenticate", "auth"):
            authorized = self._known(str(data.get("key_id") or data.get("key")),
                                     str(data.get("secret_key") or data.get("secret")))  # fmt: skip
            status = "authorized" if authorized else "unauthorized"
            await _send(socket, "authorization", {"status": status, "action": "authenticate"})
        elif action == "listen" and authorized:
            streams = [name for name in data["streams"] if name == "trade_updates"]
            (self._streams.add if streams else self._streams.discard)(socket)
            await _send(socket, "listening", {"streams": streams})
        else:
            await _send(socket, "authorization", {"status": "unauthorized", "action": str(action)})
        return authorized

    async def _tell(self) -> None:
        """Send what happened to all who listen, in the order in which it happened."""
        async with self._telling:
            with self._lock:
                events, self.exchange.events = self.exchange.events, []
            if self.scramble is not None:
                events = self.scramble(events)
            for event in events:
                for socket in list(self._streams):
                    try:
                        await _send(socket, "trade_updates", event)
                    except ConnectionError:
                        self._streams.discard(socket)

    async def _cut(self) -> None:
        for socket in list(self._streams):
            self._streams.discard(socket)
            if socket._req is not None and socket._req.transport is not None:
                socket._req.transport.abort()  # without a closing handshake, as networks do it

    # The requests.

    async def _place(self, request: web.Request) -> web.Response:
        return _json(self.exchange.place(await request.json()))

    async def _orders(self, request: web.Request) -> web.Response:
        query = request.query
        listed = self.exchange.listed(
            query.get("status", "open"),
            min(int(query.get("limit", PAGE)), MAX_PAGE),
            instant(query.get("after")),
            instant(query.get("until")),
            descending=query.get("direction", "desc") == "desc",
            nested=query.get("nested", "").lower() == "true",
            symbols={name for name in query.get("symbols", "").split(",") if name},
        )
        return _json((200, listed))

    async def _order(self, request: web.Request) -> web.Response:
        order = self.exchange.orders.get(request.match_info["id"])
        if order is None:
            return _json((404, {"code": 40410000, "message": "order not found"}))
        nested = request.query.get("nested", "").lower() == "true"
        return _json((200, self.exchange.shown(order, nested=nested)))

    async def _by_client(self, request: web.Request) -> web.Response:
        order_id = self.exchange.by_client.get(request.query.get("client_order_id", ""))
        if order_id is None:
            return _json((404, {"code": 40410000, "message": "order not found"}))
        return _json((200, self.exchange.shown(self.exchange.orders[order_id], nested=False)))

    async def _replace(self, request: web.Request) -> web.Response:
        return _json(self.exchange.replace(request.match_info["id"], await request.json()))

    async def _cancel(self, request: web.Request) -> web.Response:
        return _json(self.exchange.cancel(request.match_info["id"]))

    async def _cancel_all(self, _: web.Request) -> web.Response:
        ended = []
        for order in list(self.exchange.orders.values()):
            if order.open:  # still: its sibling may have taken it along
                ended.append({"id": order.id, "status": 200 if self.exchange.cancel(order.id)[0] == 204 else 422})
        return _json((207, ended))

    async def _positions(self, _: web.Request) -> web.Response:
        return _json((200, [self.exchange.position(symbol) for symbol in sorted(self.exchange.held)]))

    async def _position(self, request: web.Request) -> web.Response:
        symbol = request.match_info["symbol"]
        if symbol not in self.exchange.held:
            return _json((404, {"code": 40410000, "message": "position does not exist"}))
        return _json((200, self.exchange.position(symbol)))

    async def _close(self, request: web.Request) -> web.Response:
        return _json(self.exchange.close_position(request.match_info["symbol"]))

    async def _close_all(self, request: web.Request) -> web.Response:
        if request.query.get("cancel_orders", "").lower() == "true":
            await self._cancel_all(request)
        rows = []
        for symbol in sorted(self.exchange.held):
            status, body = self.exchange.close_position(symbol)
            rows.append({"symbol": symbol, "status": status, "body": body})
        return _json((207, rows))

    async def _account(self, _: web.Request) -> web.Response:
        return _json((200, self.exchange.account()))

    async def _activities(self, request: web.Request) -> web.Response:
        query = request.query
        rows = self.exchange.activities(instant(query.get("after")), descending=query.get("direction") != "asc")
        ids = [row["id"] for row in rows]
        begin = ids.index(query["page_token"]) + 1 if query.get("page_token") in ids else 0
        return _json((200, rows[begin : begin + int(query.get("page_size", 100))]))

    async def _clock(self, _: web.Request) -> web.Response:
        now = stamp(self.exchange.now)
        return _json((200, {"timestamp": now, "is_open": self.exchange.is_open, "next_open": now, "next_close": now}))

    async def _asset(self, request: web.Request) -> web.Response:
        symbol = request.match_info["symbol"]
        asset = self.exchange.assets.get(symbol)
        if asset is None:
            return _json((404, {"code": 40410000, "message": f"asset not found for {symbol}"}))
        return _json((200, {
            "id": ASSET_ID, "class": "us_equity", "exchange": "NASDAQ", "symbol": symbol,
            "name": symbol, "status": "active", "tradable": asset.tradable, "fractionable": asset.fractionable,
            "marginable": True, "shortable": asset.shortable, "easy_to_borrow": asset.shortable,
        }))  # fmt: skip


def _json(answer: Answer, headers: dict[str, str] | None = None) -> web.Response:
    status, body = answer
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.json_response(body, status=status, headers=headers)


async def _send(socket: web.WebSocketResponse, stream: str, data: dict[str, Any]) -> None:
    """The paper host sends binary frames with JSON in them."""
    await socket.send_bytes(json.dumps({"stream": stream, "data": data}).encode())
