"""Sessions end when their time is up, each once, and what is kept is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.expiries import ROOM, Expiries


def test_members_end_at_their_time_the_earliest_first_and_once() -> None:
    expiries: Expiries[str] = Expiries()
    for member, ends_at in (("late", 30.0), ("early", 10.0), ("middle", 20.0)):
        expiries.set(member, ends_at)
    assert expiries.due(9.9, 10) == []
    assert expiries.due(20.0, 10) == ["early", "middle"]
    assert expiries.due(100.0, 10) == ["late"]
    assert expiries.due(1000.0, 10) == []


def test_no_more_than_asked_for_end_at_once() -> None:
    expiries: Expiries[int] = Expiries()
    for member in range(5):
        expiries.set(member, 1.0)
    assert [len(expiries.due(1.0, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_who_has_left_does_not_end_and_a_later_word_counts() -> None:
    expiries: Expiries[str] = Expiries()
    expiries.set("gone", 1.0)
    expiries.leave("gone")
    expiries.leave("never here")
    expiries.set("renewed", 1.0)
    expiries.set("renewed", 5.0)
    assert expiries.due(4.0, 10) == []
    assert expiries.due(5.0, 10) == ["renewed"]


def test_a_month_of_coming_and_going_leaves_nothing() -> None:
    expiries: Expiries[int] = Expiries()
    for member in range(10_000):
        expiries.set(member, 2_678_400.0)
        expiries.leave(member)
    assert len(expiries) <= ROOM


@given(st.lists(st.tuples(st.sampled_from("sld"), st.integers(0, 9), st.integers(0, 20)), max_size=300))
def test_what_is_kept_is_bounded_and_ends_as_a_plain_table_says(steps: list[tuple[str, int, int]]) -> None:
    expiries: Expiries[int] = Expiries()
    table: dict[int, float] = {}
    for kind, member, time in steps:
        if kind == "s":
            expiries.set(member, time)
            table[member] = time
        elif kind == "l":
            expiries.leave(member)
            table.pop(member, None)
        else:
            ended = expiries.due(time, 100)
            assert {each for each, ends_at in table.items() if ends_at <= time} == set(ended)
            for each in ended:
                del table[each]
        assert len(expiries) <= 2 * len(table) + ROOM
