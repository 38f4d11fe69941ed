import pytest

from broker.answers import meaning
from schemas.events import Reason

SEEN = [
    (401, "", Reason.UNAUTHORIZED),
    (401, '{"code": 40110000, "message": "access key verification failed"}', Reason.UNAUTHORIZED),
    (403, '{"code": 40310000, "message": "insufficient buying power", "cost_basis": "1"}', Reason.INSUFFICIENT_CASH),
    (403, '{"message": "insufficient qty available for order (requested: 10, available: 0)"}', Reason.SHARES_HELD),
    (403, '{"message": "potential wash trade detected. use complex orders"}', Reason.WASH_TRADE),
    (403, '{"code": 40310100, "message": "trade denied due to pattern day trading protection"}',
     Reason.PATTERN_DAY_TRADER),
    (403, '{"message": "forbidden."}', Reason.UNAUTHORIZED),
    (403, "something nobody has seen", Reason.UNAUTHORIZED),
    (404, '{"code": 40410000, "message": "order not found"}', Reason.NOT_FOUND),
    (422, '{"code": 40010001, "message": "client_order_id must be unique"}', Reason.DUPLICATE),
    (400, '{"message": "client order id must be unique"}', Reason.DUPLICATE),
    (422, '{"message": "stop_loss.stop_price must be <= base_price - 0.01", "base_price": "1"}', Reason.STALE_BASE),
    (422, '{"message": "take_profit.limit_price must be >= base_price + 0.01"}', Reason.STALE_BASE),
    (422, '{"message": "take_profit.limit_price must be > stop_loss.stop_price"}', Reason.BRACKET_UNPLACEABLE),
    (422, '{"message": "bracket orders must be entry orders"}', Reason.BRACKET_UNPLACEABLE),
    (422, '{"message": "invalid limit_price 290.123. sub-penny increment does not fulfill minimum pricing criteria"}',
     Reason.SUB_PENNY),
    (422, '{"message": "asset X is not fractionable"}', Reason.FRACTIONAL),
    (422, '{"message": "asset X is not tradable"}', Reason.NOT_TRADABLE),
    (422, '{"message": "trading in X is halted"}', Reason.NOT_TRADABLE),
    (422, '{"message": "asset \\"X\\" cannot be sold short"}', Reason.NOT_SHORTABLE),
    (422, '{"message": "order is already in \\"filled\\" state"}', Reason.TOO_LATE),
    (422, '{"message": "order is not cancelable"}', Reason.TOO_LATE),
    (422, "who knows", Reason.REFUSED),
    (429, '{"message": "too many requests."}', Reason.RATE_LIMIT),
    (408, "", Reason.BROKER_DOWN),
    (500, "", Reason.BROKER_DOWN),
    (503, "", Reason.BROKER_DOWN),
    (504, "<html>", Reason.BROKER_DOWN),
]  # fmt: skip


@pytest.mark.parametrize(("status", "text", "reason"), SEEN)
def test_what_was_seen_is_understood(status, text, reason):
    assert meaning(status, text) is reason
    assert meaning(status, text.upper()) is reason
