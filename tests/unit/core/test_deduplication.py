"""What came before is known again, within bounds."""

import tracemalloc
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import deduplication as module
from app.core.deduplication import (
    AS_IT_IS,
    FEW,
    SWEEP,
    Deduplicator,
    OnTheirWay,
    RecentKeys,
    SharedKeys,
    sent_name,
)


def test_a_key_is_new_once() -> None:
    keys = RecentKeys(ttl=10, limit=100)
    assert keys.note("a", now=0)
    assert not keys.note("a", now=9.9)


def test_a_key_is_forgotten_after_its_time() -> None:
    keys = RecentKeys(ttl=10, limit=100)
    keys.note("a", now=0)
    assert keys.note("a", now=10)


def test_the_oldest_are_forgotten_over_the_limit() -> None:
    keys = RecentKeys(ttl=10, limit=3)
    for key in "abcd":
        keys.note(key, now=0)
    assert len(keys) == 3
    assert not keys.note("d", now=0)
    assert keys.note("a", now=0)


def test_a_message_is_known_by_its_carriers_id_or_its_sequence() -> None:
    known = Deduplicator()
    assert known.carried_before("1", None, now=0) is None
    assert known.carried_before("1", None, now=0) == "pubsub_id"
    assert known.carried_before("2", ("here", "1"), now=0) is None
    assert known.carried_before("2", ("here", "1"), now=0) == "sequence"
    assert known.carried_before("3", ("here", "1"), now=0) == "sequence"
    assert known.carried_before("4", ("there", "1"), now=0) is None
    assert known.carried_before(None, None, now=0) is None


def test_an_id_is_its_senders_own() -> None:
    known = Deduplicator()
    assert not known.sent_before("ann", "1", now=0)
    assert not known.sent_before("bob", "1", now=0)
    assert known.has_sent("ann", "1", now=599)
    assert known.sent_before("ann", "1", now=599)
    assert not known.has_sent("carol", "1", now=599)
    assert not known.has_sent("ann", "1", now=600)
    assert not known.sent_before("ann", "1", now=600)


def test_long_ids_are_told_apart_to_their_last_character() -> None:
    known = Deduplicator()
    ids = [letter * (AS_IT_IS + more) + end for letter in "aé\ud800" for more in (-1, 0, 1, 200) for end in "xy"]
    for message_id in ids:
        assert not known.sent_before("ann", message_id, now=0)
        assert known.carried_before(message_id, None, now=0) is None
        assert known.carried_before(None, ("here", message_id), now=0) is None
    for message_id in ids:
        assert known.has_sent("ann", message_id, now=1)
        assert known.sent_before("ann", message_id, now=1)
        assert not known.has_sent("bob", message_id, now=1)
        assert not known.sent_before("bob", message_id, now=1)
        assert known.carried_before(message_id, None, now=1) == "pubsub_id"
        assert known.carried_before(None, ("here", message_id), now=1) == "sequence"


def test_a_repeat_pushes_nothing_out() -> None:
    keys, shared = RecentKeys(ttl=10, limit=2), SharedKeys(ttl=10, limit=2)
    for key in "abbb":
        keys.note(key, now=0)
        shared.note("ann", key, now=0)
    assert not keys.note("a", now=0)
    assert not shared.note("ann", "a", now=0)


LIMIT = 40 * FEW


def shared(limit: int = LIMIT) -> SharedKeys:
    return SharedKeys(ttl=600, limit=limit)


def noted(keys: SharedKeys, sharer: str, *numbers: int) -> list[int]:
    """Those that were noted before."""
    return [number for number in numbers if not keys.note(sharer, f"{sharer}'s {number}", now=0)]


def test_a_flood_of_one_sender_pushes_out_only_its_own() -> None:
    keys = shared()
    noted(keys, "quiet", *range(5))
    noted(keys, "busy", *range(2 * FEW))
    for number in range(3 * LIMIT):
        noted(keys, "flood", number)
        noted(keys, "quiet", 5 + number // LIMIT)
        assert len(keys) <= LIMIT
    assert len(keys) == LIMIT
    assert noted(keys, "flood", 3 * LIMIT - 1, LIMIT) == [3 * LIMIT - 1]
    assert noted(keys, "quiet", *range(8)) == [*range(8)]
    assert noted(keys, "busy", *range(2 * FEW)) == [*range(2 * FEW)]


def test_who_has_most_makes_room_whoever_sends() -> None:
    keys = shared()
    noted(keys, "most", *range(LIMIT // 2))
    noted(keys, "less", *range(LIMIT // 4))
    for number in range(LIMIT // 2):
        noted(keys, f"new{number}", 0)
    assert noted(keys, "less", *range(LIMIT // 4)) == [*range(LIMIT // 4)]
    assert noted(keys, "most", LIMIT // 2 - 1, FEW) == [LIMIT // 2 - 1]  # its first few are with those of all
    assert all(noted(keys, f"new{number}", 0) for number in range(LIMIT // 2))


def test_two_floods_have_equal_shares() -> None:
    keys = shared()
    for number in range(LIMIT):
        noted(keys, "first", number)
    for number in range(LIMIT):
        noted(keys, "second", number)
    sizes = [len(own.keys) for own in keys._own.values()]
    assert abs(sizes[0] - sizes[1]) <= sizes[0] / 8 + 1


def test_where_nobody_has_many_the_oldest_goes() -> None:
    keys = shared()
    for number in range(LIMIT + 10):
        noted(keys, f"sender{number}", 0)
    assert len(keys) == LIMIT
    own = len(keys._own)  # the first that came have their own memory, and keep what they have
    assert own == LIMIT // FEW // 2
    assert all(noted(keys, f"sender{number}", 0) for number in (*range(own), *range(own + 10, LIMIT + 10)))
    assert not any(noted(keys, f"sender{number}", 0) for number in range(own, own + 10))


def test_own_memories_are_as_many_as_can_be_filled() -> None:
    keys = shared()
    for sender in range(60):
        noted(keys, f"sender{sender}", *range(FEW + 1))
    assert len(keys._own) == LIMIT // FEW
    assert len(keys) == LIMIT
    assert sum(keys._in_lane) == len(keys._lanes) == len(keys._few.keys) == len(keys._few.noted)


@pytest.mark.parametrize("others", [0, LIMIT // FEW // 2])
def test_no_entry_is_known_a_moment_longer_than_its_time(others: int) -> None:
    keys = shared()
    for number in range(others):  # those who come behind them have their own memory late, or never
        noted(keys, f"other{number}", 0)
    for number in range(FEW + 1):
        keys.note("ann", str(number), now=0)
    keys.note("bob", "1", now=0)
    keys.note("bob", "2", now=599.5)  # what is too old is looked for now, and then in a second
    assert not keys.note("ann", str(FEW), now=599.9)
    assert not keys.note("bob", "1", now=599.9)
    assert keys.note("ann", str(FEW), now=600)
    assert keys.note("bob", "1", now=600)
    assert (keys.note("ann", str(FEW), now=601), keys.note("bob", "1", now=601)) == (False, False)
    assert len(keys) == 3


def test_what_is_too_old_goes_also_of_who_sends_nothing_any_more() -> None:
    keys = shared()
    for number in range(3 * FEW):
        assert keys.note("gone", str(number), now=number)
    keys.note("other", "1", now=600)
    assert len(keys) == 3 * FEW
    keys.note("other", "2", now=600 + FEW + 10)
    assert len(keys) == 2 * FEW - 9
    keys.note("other", "3", now=600 + 3 * FEW)
    assert (len(keys), [*keys._own]) == (3, ["other"])
    keys.note("other", "4", now=1400)
    assert len(keys) == 1


@pytest.mark.parametrize("lanes", [1, 2, 2**16])
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.sampled_from([0, 0, 0, 0.5, 2, 9]))),
    st.sampled_from([3, 8, 20, 80, 1000]),
    st.booleans(),
)
def test_it_agrees_with_a_plain_memory_where_nothing_is_pushed_out(
    lanes: int, taken: list[tuple[int, int, float]], limit: int, others: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", 2)
        patch.setattr(module, "LANES", lanes)
        keys = SharedKeys(ttl=10, limit=limit)
        model: OrderedDict[tuple[int, int], float] = OrderedDict()
        now = 0.0
        noted_at: list[float] = []
        pushed_out = False
        for number in range(limit // 4 * others):  # whoever comes behind them has no memory of its own at once
            keys.note(f"other{number}", "", now)
            noted_at.append(now)
        for sharer, name, pause in taken:
            now += pause
            while model and now - next(iter(model.values())) >= 10:
                model.popitem(last=False)
            is_new = keys.note(str(sharer), str(name), now)
            if is_new:
                assert pushed_out or (sharer, name) not in model
                model[sharer, name] = now
                model.move_to_end((sharer, name))
            else:
                assert (sharer, name) in model
            noted_at += [now] * is_new
            pushed_out |= sum(now - time < 10 + SWEEP for time in noted_at) > limit
            assert len(keys) <= limit
            assert len(keys) == len(keys._few.keys) + sum(len(own.keys) for own in keys._own.values())
            assert sum(keys._in_lane) == len(keys._lanes) == len(keys._few.keys)


@pytest.mark.parametrize("senders", [1, 30, 10**6])
def test_an_entry_takes_what_the_sum_of_all_says(senders: int) -> None:
    limit = 20_000
    tracemalloc.start()
    try:
        keys = SharedKeys(ttl=600, limit=limit, as_it_is=73)
        for number in range(2 * limit):
            sender = f"{number % senders:08}-2222-4222-8222-222222222222"
            keys.note(sender, f"{number:08}-1111-4111-8111-111111111111" + "\U0001f600" * (number % 2), number / 1000)
        assert len(keys) == limit
        assert tracemalloc.get_traced_memory()[0] < 300 * limit
    finally:
        tracemalloc.stop()


def test_an_id_counts_within_its_type_and_address() -> None:
    known = Deduplicator()
    names = [
        sent_name("1", "notification", None, None, "ann"),
        sent_name("1", "notification", None, None, "bob"),
        sent_name("1", "notification", None, "bob", None),
        sent_name("1", "announce", "bob", None, None),
        sent_name("1", "announce", "bob", "x", None),
        sent_name("2", "announce", "bob", "x", None),
    ]
    assert [known.sent_before("", name, now=0) for name in names] == [False] * 6
    assert [known.sent_before("", name, now=0) for name in names] == [True] * 6


def test_a_repeat_of_what_is_on_its_way_is_one() -> None:
    on_their_way = OnTheirWay()
    own, first = on_their_way.begin("ann", "1", now=0)
    assert first is None
    again, first = on_their_way.begin("ann", "1", now=1)
    assert first is own
    assert on_their_way.begin("bob", "1", now=1)[1] is None
    assert on_their_way.begin("ann", "2", now=1)[1] is None
    on_their_way.failed("ann", "1", again)  # not the first
    assert on_their_way.begin("ann", "1", now=1)[1] is own
    on_their_way.came_back("ann", "1", is_repeat=True)
    assert (own.is_accepted, own.is_repeat) == (True, True)
    assert on_their_way.begin("ann", "1", now=2)[1] is None


def test_what_failed_is_no_longer_on_its_way() -> None:
    on_their_way = OnTheirWay()
    own, _ = on_their_way.begin("ann", "1", now=0)
    on_their_way.failed("ann", "1", own)
    assert on_their_way.begin("ann", "1", now=0)[1] is None


def test_what_is_on_its_way_is_bounded_in_number_and_time() -> None:
    on_their_way = OnTheirWay(limit=3)
    for number in range(5):
        on_their_way.begin("ann", str(number), now=0)
    assert len(on_their_way) == 3
    assert on_their_way.begin("ann", "4", now=599)[1] is not None
    assert on_their_way.begin("ann", "4", now=600)[1] is None
    assert on_their_way.begin("ann", "0", now=600)[1] is None
