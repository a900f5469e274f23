"""Once too often, and how much a client may send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.rate import RateLimit, SenderLimits, SenderRate, TokenBucket


def test_the_limit_may_be_reached_but_not_exceeded() -> None:
    rate = RateLimit(limit=3, period=10)
    assert [rate.exceeded(now) for now in (0, 1, 2, 3)] == [False, False, False, True]


def test_what_is_older_than_the_period_does_not_count() -> None:
    rate = RateLimit(limit=3, period=10)
    assert [rate.exceeded(now) for now in (0, 1, 2, 10.1, 11.1)] == [False] * 5


LIMITS = SenderLimits(messages=10, message_burst=50, bytes=1000, byte_burst=4000)


def test_sender_may_send_a_burst_and_then_at_its_rate() -> None:
    sender = SenderRate(LIMITS)
    assert [sender.take(1, 100.0) for _ in range(50)] == [0.0] * 50
    assert sender.take(1, 100.0) == pytest.approx(0.1, abs=1e-4)
    assert sender.take(1, 100.11) == 0.0
    assert sender.take(1, 100.11) > 0


def test_refused_message_costs_nothing() -> None:
    sender = SenderRate(LIMITS)
    for _ in range(50):
        sender.take(1, 0.0)
    for _ in range(1000):
        assert sender.take(1, 0.0)
    assert sender.take(1, 0.2) == 0.0


def test_sender_may_send_so_many_bytes_at_once_and_then_at_its_rate() -> None:
    sender = SenderRate(LIMITS)
    assert [sender.take(1000, 100.0) for _ in range(4)] == [0.0] * 4
    assert sender.take(500, 100.0) == pytest.approx(0.5, abs=1e-4)
    assert sender.used == pytest.approx(4000)
    assert sender.take(500, 100.5) == 0.0


def test_message_larger_than_a_burst_passes_after_a_silence() -> None:
    sender = SenderRate(LIMITS)
    assert sender.take(10_000, 0.0) == 0.0
    assert sender.take(1, 0.0) > 0
    assert sender.take(10_000, 10.0) == 0.0


def test_without_limits_everything_passes() -> None:
    sender = SenderRate(SenderLimits.of(0, 0))
    assert not any(sender.take(10**9, 0.0) for _ in range(10_000))
    sender.charge(10**9, 0.0)
    sender.credit()
    assert not sender.refused_too_often(10**9, 0.0)


def test_answers_are_charged_as_bytes() -> None:
    sender = SenderRate(LIMITS)
    sender.charge(4000, 0.0)
    assert sender.take(1000, 0.0) == pytest.approx(1.0, abs=1e-4)


def test_acknowledgements_that_are_owed_are_free() -> None:
    """Also where far more come at once than a burst, after a silence in which the bucket was full."""
    sender = SenderRate(LIMITS)
    for _ in range(300):
        sender.credit()
    assert not any(sender.take(1, 100.0) for _ in range(350))
    assert sender.take(1, 100.0) > 0


def test_whole_burst_refused_in_ten_seconds_is_too_often() -> None:
    sender = SenderRate(LIMITS)
    assert not any(sender.refused_too_often(1, 0.0) for _ in range(50))
    assert sender.refused_too_often(1, 0.0)
    assert not sender.refused_too_often(1, 10.1)
    assert not sender.refused_too_often(3000, 30.0)
    assert sender.refused_too_often(3000, 30.0)


def test_default_bursts_are_those_of_the_contract() -> None:
    limits = SenderLimits.of(1000, 4194304)
    assert (limits.message_burst, limits.byte_burst) == (5000, 16777216)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 3000)), max_size=200))
def test_no_more_passes_than_burst_and_rate_allow(steps: list[tuple[float, int]]) -> None:
    """In any stretch of time that begins at the start: at most a burst, the rate, and the last message."""
    sender = SenderRate(LIMITS)
    now, messages, size = 0.0, 0, 0
    for pause, length in steps:
        now += pause
        if not sender.take(length, now):
            assert messages <= 50 + 10 * now
            assert size <= 4000 + 1000 * now + 1e-6 or length == 0
            messages, size = messages + 1, size + length


def test_token_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=5, burst=10)
    assert [bucket.take(0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [bucket.take(0.21), bucket.take(0.21)] == [True, False]
    assert [bucket.take(100.0) for _ in range(11)] == [True] * 10 + [False]
