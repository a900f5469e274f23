"""Waits between tries."""

import random

from app.backoff import Backoff


def test_waits_double_up_to_the_longest_and_are_spread_over_their_upper_half() -> None:
    backoff = Backoff(0.1, 2.0, random.Random(1))
    for whole in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        assert whole / 2 <= backoff.wait() <= whole


def test_a_success_begins_anew() -> None:
    backoff = Backoff(0.1, 2.0, random.Random(1))
    for _ in range(5):
        backoff.wait()
    backoff.reset()
    assert backoff.wait() <= 0.1


def test_two_that_fail_together_do_not_try_together() -> None:
    assert Backoff(1, 2, random.Random(1)).wait() != Backoff(1, 2, random.Random(2)).wait()
