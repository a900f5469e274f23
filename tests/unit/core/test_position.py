"""A position as text: the same everywhere, small, and nothing else passes for one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.position import MAX_KEYS, MAX_LENGTH, MAX_TIME, Last, Mark, Position, PositionError, is_epoch

lasts = st.builds(
    Last,
    st.integers(0, 2**32 - 1),
    st.integers(0, MAX_TIME),
    st.text().map(lambda text: Last(*Mark(0, text, "").last or ()).id),
)
positions = st.builds(
    Position.at,
    st.from_regex(r"[0-9A-Za-z_-]{0,32}", fullmatch=True),
    st.integers(0, MAX_TIME),
    st.lists(lasts, max_size=12, unique_by=lambda last: last.key),
)
near_positions = st.from_regex(r"1\.[a-z]?\.[0-9a-f]{1,3}(\.[0-9a-f]{1,2}_-?[0-9a-f]{1,2}_[a-c]){0,3}\n?")


@given(positions)
def test_what_is_written_is_read_again(position: Position) -> None:
    text = position.encode()
    assert Position.decode(text) == position
    assert len(text) <= MAX_LENGTH
    assert re.fullmatch(r"[0-9A-Za-z._~-]+", text), "it stands in a URL as it is"


@given(st.text() | near_positions)
def test_each_position_is_written_in_one_way_and_all_else_is_an_error(text: str) -> None:
    try:
        position = Position.decode(text)
    except PositionError:
        return
    assert position.encode() == text


def test_a_position_of_one_key_is_short() -> None:
    mark = Mark(1_764_052_724_123_000_000, "17234567890123456", "cs-07")
    assert mark.last is not None
    text = Position.at("", mark.time, [mark.last]).encode()
    assert text == "1..187b2c9b32695cc0.3654b3bd_0_17234567890123456"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1..",
        "2..1",
        "1..01",
        "1..A",
        "1..1.",
        "1..1.a_0",
        "1..1.a_0_",
        "1..1.a_-0_x",
        "1..1.a_2_x",  # before all time
        "1..1.a_0_x.a_0_y",
        "1..1.b_0_x.a_0_y",
        "1..ffffffffffffffff",
        "1..1.a_-7fffffffffffffff_x",
        "1..1\n",
        "1..\u0661",
        "1.é.1",
        "1." + "e" * 33 + ".1",
        "1..1" + "".join(f".{key:x}_0_x" for key in range(1, MAX_KEYS + 2)),
        "1..1.a_0_" + "9" * 33,
        "1" * 100_000,
    ],
)
def test_this_is_no_position(text: str) -> None:
    with pytest.raises(PositionError):
        Position.decode(text)


def test_of_too_many_keys_the_newest_stay() -> None:
    position = Position.at("", 99, [Last(key, 20 - key, "x") for key in range(12)])
    assert [last.key for last in position.last] == list(range(MAX_KEYS))


def test_a_message_without_order_has_no_place_in_a_position() -> None:
    assert Mark(1, "a", None).last is None
    assert Mark(1, "a", "").last == Last(0, 1, "a")


def test_an_id_of_any_kind_fits_and_stays_distinct() -> None:
    ids = ["a", "~a", "a.b", "a" * 32, "a" * 33, "a" * 34, "", "\ud800", "é"]
    shorts = [Mark(0, each, "").last for each in ids]
    assert len({last.id for last in shorts if last}) == len(ids)
    assert all(last and len(last.id) <= 33 for last in shorts)


def test_an_epoch_is_up_to_32_url_safe_characters() -> None:
    assert is_epoch("")
    assert is_epoch("3f2a_-Z")
    assert not is_epoch("a.b")
    assert not is_epoch("a" * 33)
