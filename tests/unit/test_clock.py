"""Ids and times as they are written."""

import random
import uuid
from datetime import UTC, datetime

import pytest

from app.clock import Clock, rfc3339


def test_an_id_is_a_random_uuid() -> None:
    ids = {Clock().new_id() for _ in range(1000)}
    assert len(ids) == 1000
    read = [uuid.UUID(text) for text in ids]
    assert {str(each) for each in read} == ids
    assert {(each.version, each.variant) for each in read} == {(4, uuid.RFC_4122)}
    bits = [sum(each.int >> bit & 1 for each in read) for bit in range(128)]
    fixed = [ones for ones in bits if ones in (0, 1000)]
    assert len(fixed) == 6  # the version and the variant
    assert all(350 < ones < 650 for ones in bits if ones not in (0, 1000))


@pytest.mark.parametrize(
    ("time_ns", "written"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999_999_999, "1970-01-01T00:00:00.999Z"),
        (1_000_000_000, "1970-01-01T00:00:01.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_767_225_599_007_999_999, "2025-12-31T23:59:59.007Z"),
    ],
)
def test_a_time_is_in_utc_and_milliseconds(time_ns: int, written: str) -> None:
    assert rfc3339(time_ns) == written


def test_times_may_come_in_any_order() -> None:
    chance = random.Random(1)
    for _ in range(1000):
        milliseconds = chance.randrange(1_700_000_000_000, 1_700_000_005_000)
        expected = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
        assert rfc3339(milliseconds * 10**6) == expected.replace("+00:00", "Z")
