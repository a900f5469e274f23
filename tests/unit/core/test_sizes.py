"""Sizes in memory."""

import json
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.sizes import COMPACT_FROM, compact, text_bytes


@pytest.mark.parametrize("letter", ["a", "\xe9", "\u0436", "\U0001f600"])
@pytest.mark.parametrize("length", [1, 2, 15, 255])
def test_a_text_takes_what_python_says_once_it_was_written_as_json(letter: str, length: int) -> None:
    text: str = msgspec.json.decode(json.dumps(letter * length))
    before = text_bytes(text)
    msgspec.json.encode(text)
    assert sys.getsizeof(text) <= text_bytes(text) <= sys.getsizeof(text) + 8
    assert text_bytes(text) == before


@given(st.text(st.characters(exclude_categories=[]), max_size=300))
def test_equal_texts_take_the_same_whatever_is_in_them(text: str) -> None:
    assert text_bytes(text) == text_bytes("".join(list(text))) >= sys.getsizeof(text)


@pytest.mark.parametrize("left", [1, 3, 50])
def test_a_dict_that_was_large_gives_its_memory_back_and_stays_what_it_is(left: int) -> None:
    places: dict[str, int] = {str(number): number for number in range(2000)}
    full = sys.getsizeof(places)
    for number in range(2000 - left):
        del places[str(number)]
        compact(places)
    assert list(places.values()) == list(range(2000 - left, 2000))
    assert sys.getsizeof(places) <= max(COMPACT_FROM, 240 * left) < full / 3


def test_a_dict_that_is_in_use_is_left_alone() -> None:
    """To copy it each time would cost as much as it has entries."""

    class Watched(dict[int, None]):
        cleared = 0

        def clear(self) -> None:
            self.cleared += 1
            super().clear()

    places = Watched(dict.fromkeys(range(2000)))
    for number in range(2000):
        del places[number]
        places[2000 + number] = None
        compact(places)
    assert places.cleared == 0
    for number in range(2000, 4000):
        del places[number]
        compact(places)
    assert 0 < places.cleared < 10
