"""Score, confidence and gates: rulings 12 and 13, row by row."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import ensemble
from schemas.events import Absence, Direction, Reason, Regime
from tests.operators.frames import opinions, outlook

SHORT, FLAT, LONG = Direction.SHORT, Direction.FLAT, Direction.LONG
UNKNOWN, BULL, BEAR, SIDEWAYS = Regime.UNKNOWN, Regime.BULL, Regime.BEAR, Regime.SIDEWAYS
SCALE = {
    (BULL, LONG): 1.0, (BULL, SHORT): 0.5, (BEAR, SHORT): 1.0, (BEAR, LONG): 0.5,
    (SIDEWAYS, LONG): 0.5, (SIDEWAYS, SHORT): 0.5, (UNKNOWN, LONG): 0.5, (UNKNOWN, SHORT): 0.5,
}  # fmt: skip
ONE = {"weights": {"rsi": 1.0}}  # one voter: its vote is the score


def judged(votes, regime, **params):
    """The signals of votes (one list per alpha, alphabetical) in regimes."""
    return ensemble.step(ensemble.Params(**params), ensemble.start(), opinions(votes, regime))[1]


def test_the_score_is_the_weighted_mean_over_all_voters():
    # ema_cross .2 × 1, macd .1 × -1, rsi .2 × .5, over .5
    answer = judged([[1.0], [-1.0], [0.5]], [BULL])
    assert answer.score[0] == pytest.approx(0.4, rel=1e-15)
    assert answer.direction[0] == LONG
    assert answer.confidence[0] == pytest.approx(0.7, rel=1e-15)


def test_a_silent_voter_counts_as_one_who_sees_nothing():
    assert judged([[0.0], [0.0], [1.0]], [BULL]).score[0] == pytest.approx(0.2 / 0.5, rel=1e-15)


def test_a_voter_without_weight_changes_nothing_but_the_views():
    weights = {"ema_cross": 0.2, "macd": 0.0, "rsi": 0.2}
    without, against = (judged([[1.0], [vote], [1.0]], [BULL], weights=weights) for vote in (0.0, -1.0))
    assert without.score[0] == against.score[0] == 1.0
    assert without.views[0] != against.views[0]


@pytest.mark.parametrize(
    ("score", "direction"),
    [
        (0.15, FLAT), (np.nextafter(0.15, 1), LONG), (1.0, LONG), (0.0, FLAT),
        (-0.15, FLAT), (-np.nextafter(0.15, 1), SHORT), (-1.0, SHORT),
    ],
)  # fmt: skip
def test_a_direction_needs_more_than_the_threshold(score, direction):
    answer = judged([[score]], [BULL], **ONE)
    assert (answer.score[0], answer.direction[0]) == (score, direction)


@pytest.mark.parametrize(("regime", "direction"), SCALE)
def test_confidence_depends_on_how_regime_and_direction_go_together(regime, direction):
    answer = judged([[direction * 0.5]], [regime], **ONE)
    assert answer.confidence[0] == 0.5 + 0.5 * SCALE[regime, direction] * 0.5


@pytest.mark.parametrize(("regime", "direction"), SCALE)
def test_item_6_every_gate_can_pass_and_fail_in_every_regime(regime, direction):
    """A third above a gate's score passes it, a third below does not."""
    needs = {gate: (gate - 0.5) / (0.5 * SCALE[regime, direction]) for gate in (0.55, 0.65)}
    scores = [needs[0.55] * 2 / 3, needs[0.55] * 4 / 3, needs[0.65] * 2 / 3, needs[0.65] * 4 / 3]
    answer = judged([[direction * score for score in scores]], [regime] * 4, **ONE, threshold=0.01)
    assert answer.reason.tolist() == [
        Reason.BELOW_PUBLISH_GATE, Reason.BELOW_DECISION_GATE, Reason.BELOW_DECISION_GATE, Reason.NONE,
    ]  # fmt: skip


def test_a_confidence_at_the_gate_passes():
    gates = {"publish_gate": 0.625, "decision_gate": 0.75}
    scores = [0.25, np.nextafter(0.25, 0) - 1e-12, 0.5, 0.5 - 1e-12]
    answer = judged([scores], [BULL] * 4, **ONE, **gates)
    assert answer.reason.tolist() == [
        Reason.BELOW_DECISION_GATE, Reason.BELOW_PUBLISH_GATE, Reason.NONE, Reason.BELOW_DECISION_GATE,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("votes", "regime", "reason"),
    [
        ((0.0, 0.0, 0.0), UNKNOWN, Reason.NOT_WARM),
        ((0.0, 0.0, 0.0), SIDEWAYS, Reason.NO_INSIGHT),
        ((0.0, 0.0, 0.0), BULL, Reason.NO_INSIGHT),
        ((1.0, 0.0, -1.0), BULL, Reason.NEUTRAL),  # they cancel out, which is an opinion
        ((0.0, 0.5, 0.0), BULL, Reason.NEUTRAL),  # 0.1
        ((0.2, 0.0, 0.2), SIDEWAYS, Reason.BELOW_PUBLISH_GATE),  # 0.16 -> 0.54
        ((0.5, 0.0, 0.0), BULL, Reason.BELOW_DECISION_GATE),  # 0.2 -> 0.6
        ((-1.0, 0.0, 0.0), BULL, Reason.BELOW_DECISION_GATE),  # 0.4 against the trend -> 0.6
        ((-1.0, 0.0, 0.0), BEAR, Reason.NONE),  # 0.4 with it -> 0.7
        ((1.0, 0.0, 1.0), UNKNOWN, Reason.NONE),  # 0.8 -> 0.7
    ],
)
def test_where_a_signal_ends(votes, regime, reason):
    assert judged([[vote] for vote in votes], [regime]).reason.tolist() == [reason]


def test_views_are_base_three_digits_in_alphabetical_order():
    # ema_cross up 2, macd none 1, rsi down 0
    assert judged([[0.3], [0.0], [-0.1]], [BULL]).views.tolist() == [2 + 1 * 3 + 0 * 9]
    signs = list(product([-1, 0, 1], repeat=3))
    answer = judged(np.array(signs).T, [BULL] * 27).views.tolist()
    assert answer == [(a + 1) + 3 * (b + 1) + 9 * (c + 1) for a, b, c in signs]
    assert sorted(answer) == list(range(27))


def test_voters_are_in_alphabetical_order_however_the_weights_were_given():
    given_ = {"rsi": 0.2, "macd": 0.1, "ema_cross": 0.3}
    assert ensemble.Params(weights=given_).voters == ["ema_cross", "macd", "rsi"]
    assert judged([[1.0], [0.0], [0.0]], [BULL], weights=given_).score[0] == pytest.approx(0.5)


votes = st.floats(-1.0, 1.0, width=32)


@given(
    rows=st.lists(st.tuples(votes, votes, votes, st.sampled_from(Regime)), min_size=1, max_size=30),
    weights=st.tuples(*[st.integers(1, 9).map(lambda n: n / 7)] * 3),
)
def test_agrees_with_the_rulings_written_out(rows, weights):
    *columns, regime = zip(*rows, strict=True)
    named = dict(zip(("ema_cross", "macd", "rsi"), weights, strict=True))
    answer = judged(columns, regime, weights=named)
    for i, (*own, trend) in enumerate(rows):
        score = sum(w * v for w, v in zip(weights, own, strict=True)) / sum(weights)
        assert answer.score[i] == pytest.approx(score, abs=1e-12)
        if min(abs(abs(score) - 0.15), abs(abs(score) - 0.1)) < 1e-9:
            continue
        direction = LONG if score > 0.15 else SHORT if score < -0.15 else FLAT
        assert answer.direction[i] == direction
        if direction == FLAT:
            continue
        confidence = 0.5 + 0.5 * SCALE[trend, direction] * abs(score)
        assert answer.confidence[i] == pytest.approx(confidence, abs=1e-12)


@given(weights=st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=8), sign=st.sampled_from([-1.0, 1.0]))
def test_rounding_never_takes_a_score_beyond_one(weights, sign):
    named = {f"alpha_{k}": weight for k, weight in enumerate(weights)}
    answer = judged([[sign]] * len(weights), [BULL if sign > 0 else BEAR], weights=named)
    assert answer.score[0] == pytest.approx(sign, rel=1e-12)
    assert abs(answer.score[0]) <= 1.0
    assert answer.confidence[0] <= 1.0


def test_an_empty_frame_has_an_empty_answer():
    answer = judged([[], [], []], [])
    assert answer.score.size == answer.reason.size == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"publish_gate": 0.7}, "publish_gate = 0.7, decision_gate = 0.65"),
        ({"with_trend": 0.2, "against_trend": 0.2, "sideways": 0.2}, "no confidence here exceeds 0.6"),
        ({"weights": {"rsi": 0.0}, "forecast_weight": 0.0}, "want at least one above 0"),
        ({"weights": {}, "forecast_weight": 0.0}, "want at least one above 0"),
    ],
)
def test_settings_under_which_nothing_could_trade_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        ensemble.Params(**params)


# With a forecast: rulings 12 to 15.


def weighed(votes, regime, quantiles, toll=ensemble.FREE, params=None, **told):
    """The signals of votes and a forecast."""
    frame = outlook(opinions(votes, regime), quantiles, **told)
    return ensemble.step(ensemble.Params(**(params or {})), ensemble.start(), frame, toll)[1]


def test_the_forecast_votes_with_its_weight_and_strength():
    # ema_cross .2 × 1, macd .1 × 0, rsi .2 × 1, forecast .5 × .5, over 1
    answer = weighed([[1.0], [0.0], [1.0]], [BULL], [[-0.01, 0.02, 0.05]], strength=0.5)
    assert answer.score[0] == pytest.approx(0.65)
    assert answer.confidence[0] == pytest.approx(0.5 + 0.5 * (0.7 * 0.65 + 0.3 * 0.5))
    assert answer.views[0] == 2 + 1 * 3 + 2 * 9 + 2 * 27  # the forecast is the last digit
    assert (answer.q10[0], answer.q50[0], answer.q90[0]) == (-0.01, 0.02, 0.05)
    assert answer.model[0] == 1


@pytest.mark.parametrize("absence", [code for code in Absence if code])
def test_a_row_without_a_forecast_has_a_silent_voter_and_the_confidence_of_the_score_alone(absence):
    answer = weighed([[1.0], [1.0], [1.0]], [BULL], [[0.0, 0.0, 0.0]], absence=[absence])
    assert answer.score[0] == pytest.approx(0.5)
    assert answer.confidence[0] == pytest.approx(0.75)
    assert answer.reason[0] == Reason.NONE  # the return gate is off
    assert np.isnan([answer.q10[0], answer.q50[0], answer.q90[0], answer.probability[0]]).all()


@pytest.mark.parametrize("direction", [0, -1])
def test_a_neutral_or_opposing_forecast_adds_nothing_to_confidence(direction):
    answer = weighed([[1.0], [1.0], [1.0]], [BULL], [[-0.1, 0.05, 0.1]], direction=[direction], strength=0.2)
    assert answer.score[0] == pytest.approx(0.5 + 0.5 * 0.2 * direction)
    assert answer.confidence[0] == pytest.approx(0.5 + 0.5 * 0.7 * answer.score[0])


@pytest.mark.parametrize(
    ("q50", "toll", "reason"),
    [
        (0.0042, ensemble.Toll(0.002, 0.0), Reason.NONE),
        (0.0038, ensemble.Toll(0.002, 0.0), Reason.EXPECTED_RETURN),  # two round trips cost 0.004
        (0.0042, ensemble.Toll(0.002, 0.005), Reason.EXPECTED_RETURN),  # the floor of daily bars
        (0.005, ensemble.Toll(0.002, 0.005), Reason.NONE),
        (-0.0042, ensemble.Toll(0.002, 0.0), Reason.NONE),
        (-0.0038, ensemble.Toll(0.002, 0.0), Reason.EXPECTED_RETURN),
    ],
)
def test_item_6_the_median_must_pay_for_the_round_trip(q50, toll, reason):
    way = float(np.sign(q50))
    regime = BULL if q50 > 0 else BEAR
    assert weighed([[way]] * 3, [regime], [[q50 - 1, q50, q50 + 1]], toll).reason.tolist() == [reason]


def test_a_quoted_spread_is_part_of_what_the_round_trip_costs():
    frame = outlook(opinions([[1.0]] * 3, [BULL]), [[-1.0, 0.01, 1.0]])
    toll = ensemble.Toll(0.002, 0.0)
    for bid, ask, reason in ((0.9985, 1.0015, Reason.EXPECTED_RETURN), (0.9995, 1.0005, Reason.NONE)):
        bars = replace(frame.features.bars, bid=np.array([bid]), ask=np.array([ask]))
        quoted = replace(frame, features=replace(frame.features, bars=bars))
        answer = ensemble.step(ensemble.Params(cost_multiple=2.1), ensemble.start(), quoted, toll)[1]
        assert answer.reason.tolist() == [reason]


@pytest.mark.parametrize(
    ("probability", "is_calibrated", "reason"),
    [(0.49, True, Reason.LOW_PROBABILITY), (0.50, True, Reason.NONE), (0.49, False, Reason.NONE)],
)
def test_item_6_only_a_calibrated_probability_is_asked(probability, is_calibrated, reason):
    answer = weighed([[1.0]] * 3, [BULL], [[0.0, 0.1, 0.2]], probability=probability, is_calibrated=is_calibrated)
    assert answer.reason.tolist() == [reason]
    assert answer.probability[0] == probability


@pytest.mark.parametrize(
    ("votes", "regime", "absence", "reason"),
    [
        ((1.0, 1.0, 1.0), BULL, Absence.STALE, Reason.NO_FORECAST),
        ((1.0, 1.0, 1.0), BULL, Absence.NONE, Reason.NONE),
        ((0.4, 0.4, 0.4), BULL, Absence.STALE, Reason.NO_FORECAST),  # below the decision gate, too: 0.6
        ((0.1, 0.1, 0.1), BULL, Absence.STALE, Reason.NEUTRAL),  # what has no direction needs no forecast
        ((0.0, 0.0, 0.0), UNKNOWN, Absence.NOT_WARM, Reason.NOT_WARM),
    ],
)
def test_item_8_a_required_forecast_that_is_missing_ends_a_signal(votes, regime, absence, reason):
    answer = weighed([[vote] for vote in votes], [regime], [[0.0, 0.5, 1.0]], absence=[absence],
                     params={"require_forecast": True})  # fmt: skip
    assert answer.reason.tolist() == [reason]


@given(
    rows=st.lists(
        st.tuples(votes, votes, votes, st.sampled_from(Regime), st.sampled_from([-1, 0, 1]), st.floats(0.0, 1.0),
                  st.booleans()),
        min_size=1, max_size=30,
    ),
    weight=st.floats(0.0, 2.0),
)  # fmt: skip
def test_a_forecast_agrees_with_the_rulings_written_out(rows, weight):
    *columns, regime, way, strength, is_there = zip(*rows, strict=True)
    answer = weighed(columns, regime, [[-0.5, 0.2, 0.5]] * len(rows), direction=way, strength=strength,
                     absence=[0 if one else 3 for one in is_there], params={"forecast_weight": weight})  # fmt: skip
    for i, (ema, macd, rsi, trend, own, f, there) in enumerate(rows):
        score = (0.2 * ema + 0.1 * macd + 0.2 * rsi + (weight * own * f if there else 0.0)) / (0.5 + weight)
        assert answer.score[i] == pytest.approx(score, abs=1e-12)
        if abs(abs(score) - 0.15) < 1e-9 or abs(score) <= 0.15:
            continue
        direction = LONG if score > 0.15 else SHORT
        sure = 0.7 * abs(score) + (0.3 * f if own == direction else 0.0) if there else abs(score)
        assert answer.direction[i] == direction
        assert answer.confidence[i] == pytest.approx(0.5 + 0.5 * SCALE[trend, direction] * sure, abs=1e-12)
