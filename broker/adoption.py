"""Whose order it is that a broker has under an id of ours: another one must never pass for ours."""

from broker.port import OrderRequest, OrderState, Refusal, Shape, TradingStopped
from schemas.events import Kind, Reason


def adopted(order: OrderRequest, found: OrderState) -> OrderState:
    """What stands there under our id, if it is what we sent; raises TradingStopped for another order under it."""
    first = [leg for leg in found.legs if not leg.replaces]  # one that took another's place may have another price
    stop = next((leg.stop_price for leg in first if leg.kind.startswith("stop")), None)
    target = next((leg.limit_price for leg in first if leg.kind == "limit"), None)
    if order.shape is Shape.OCO:
        target = found.limit_price
    wanted = (order.id, order.symbol, order.side, order.qty, order.shape.name.lower())
    there = (found.client_id, found.symbol, found.side, found.qty, "single" if found.shape == "simple" else found.shape)
    kinds = {Kind.MARKET: "market", Kind.LIMIT: "limit"}
    legs = found.status == "replaced" or order.shape is Shape.SINGLE or not found.legs or (
        (stop is None or stop == order.stop_loss) and (target is None or target == order.take_profit)
    )  # fmt: skip
    if wanted != there or not legs or (order.shape is not Shape.OCO and found.kind != kinds[order.kind]):
        raise TradingStopped(
            Reason.ORDER_CONFLICT,
            f"order {order.id}: the broker has another under this id ({found.side.name.lower()} {found.qty} "
            f"{found.symbol}, {found.shape} {found.kind}): nothing more is sent until a human has looked",
        )
    return found


def replacement(broker_id: str, found: OrderState | None, otherwise: Refusal) -> OrderState | Refusal:
    """What stands there under the id of a replacement, if it took the place of the order that was named."""
    return found if found is not None and found.replaces == broker_id else otherwise
