"""What is owed, and when it falls due."""

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.acknowledgements import (
    AUDIENCE_BYTES,
    CONNECTION_BYTES,
    ENTRY_BYTES,
    MESSAGE_BYTES,
    SAME_ID_BYTES,
    AckQueue,
    GivenUp,
    SentMessage,
)
from app.core.router import Subscribers
from tests.unit.core.test_growth import lines_run


def message(message_id: str, size: int = 0) -> SentMessage:
    return SentMessage(message_id, bytes(bytearray(size)))


@pytest.fixture
def queue() -> AckQueue[str]:
    return AckQueue(delay=60, timeout=600, limit=3)


def due_ids(queue: AckQueue[str], now: float) -> tuple[list[str | None], list[str | None]]:
    resend, given_up = queue.due(now, limit=100)
    return [entry.message.id for entry in resend], [entry.message.id for entry in given_up]


def test_a_message_is_due_after_the_delay_and_again_after_each(queue: AckQueue[str]) -> None:
    queue.add("ann", message("1"), now=0)
    assert due_ids(queue, 59.9) == ([], [])
    assert due_ids(queue, 60) == (["1"], [])
    assert due_ids(queue, 60) == ([], [])
    assert queue.next_due() == 120
    assert due_ids(queue, 121) == (["1"], [])


def test_an_acknowledgement_ends_it_for_that_connection_and_message_only(queue: AckQueue[str]) -> None:
    for connection in ("ann", "bob"):
        for message_id in ("1", "2"):
            queue.add(connection, message(message_id), now=0)
    assert queue.acknowledge("ann", "2")
    assert not queue.acknowledge("ann", "2")
    assert not queue.acknowledge("carol", "1")
    assert due_ids(queue, 60) == (["1", "1", "2"], [])


# The connection has the subscriptions a/1, a/2, b/1 and c/1 but for those that it leaves.
MESSAGES = {
    "a/1": Subscribers("a", "1"), "a/2": Subscribers("a", "2"), "a": Subscribers("a", None),
    "b/1": Subscribers("b", "1"), "b": Subscribers("b", None), "c": Subscribers("c", None),
    "all": Subscribers(None, None), "own": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("left", "remaining", "ended"),
    [
        (("a", "1"), {"a/2", "b/1", "c/1"}, {"a/1"}),
        (("a", "2"), {"b/1", "c/1"}, {"a/2", "a"}),
        (("b", "1"), {"a/1", "a/2", "c/1"}, {"b/1", "b"}),
        (("a", None), {"b/1", "c/1"}, {"a/1", "a/2", "a"}),
        (("a", None), set(), {"a/1", "a/2", "a", "all"}),
        (("b", "1"), set(), {"b/1", "b", "all"}),
        ((None, None), set(), {"a/1", "a/2", "a", "b/1", "b", "c", "all"}),
    ],
)
def test_what_came_by_a_subscription_that_was_left_is_waited_for_no_longer(
    left: tuple[str | None, str | None], remaining: set[str], ended: set[str]
) -> None:
    queue: AckQueue[str] = AckQueue(60, 600)
    for connection in ("ann", "bob"):
        for name, audience in MESSAGES.items():
            queue.add(connection, SentMessage(name, b"{}", audience=audience), now=0)

    def belongs(audience: Subscribers) -> bool:
        channel, sub_id = audience
        subscriptions = [name.split("/") for name in remaining]
        return any(channel in (None, of) and sub_id in (None, sub) for of, sub in subscriptions)

    assert queue.unsubscribe("ann", *left, belongs) == len(ended)
    assert list(queue.message_ids_of("ann")) == [name for name in MESSAGES if name not in ended]
    assert list(queue.message_ids_of("bob")) == list(MESSAGES)
    assert queue.unsubscribe("carol", *left, belongs) == 0
    queue.forget("ann")
    queue.forget("bob")
    assert queue.bytes == 0


def test_a_message_is_given_up_at_the_timeout_and_not_sent_again(queue: AckQueue[str]) -> None:
    queue.add("ann", message("1"), now=0)
    queue.add("ann", message("2"), now=1)
    assert due_ids(queue, 600) == (["2"], ["1"])
    assert queue.next_due() == 601
    assert due_ids(queue, 601) == ([], ["2"])
    assert (len(queue), queue.connection_count, queue.next_due()) == (0, 0, None)


def test_a_timeout_shorter_than_the_delay_still_counts() -> None:
    queue: AckQueue[str] = AckQueue(delay=60, timeout=10)
    queue.add("ann", message("1"), now=0)
    assert queue.next_due() == 10
    assert due_ids(queue, 10) == ([], ["1"])


def test_over_the_limit_the_oldest_is_given_up(queue: AckQueue[str]) -> None:
    crowded_out = [queue.add("ann", message(str(number)), now=number) for number in range(5)]
    assert [[(each.entry.message.id, each.reason) for each in given_up] for given_up in crowded_out] == [
        [],
        [],
        [],
        [("0", "too_many")],
        [("1", "too_many")],
    ]
    assert list(queue.message_ids()) == ["2", "3", "4"]
    queue.add("bob", message("0"), now=9)
    assert len(queue) == 4


def test_with_a_limit_of_one_only_the_newest_is_owed() -> None:
    queue: AckQueue[str] = AckQueue(60, 600, limit=1)
    queue.add("ann", message("1"), now=0)
    queue.add("ann", message("2"), now=0)
    assert list(queue.message_ids()) == ["2"]
    assert queue.acknowledge("ann", "2")


def test_the_same_message_again_begins_anew(queue: AckQueue[str]) -> None:
    for now in (0, 30):  # each is made anew, as the journal does
        queue.add("ann", SentMessage("1", b"{}", number=7), now=now)
    assert (len(queue), due_ids(queue, 60), due_ids(queue, 90)) == (1, ([], []), (["1"], []))


def test_messages_of_one_id_wait_each_for_itself(queue: AckQueue[str]) -> None:
    """Nobody has another's message forgotten by giving theirs its id; each acknowledgement ends the oldest."""
    first, second, third = (SentMessage("1", data) for data in (b"a", b"b", b"c"))
    for number, each in enumerate((first, second, third)):
        queue.add("ann", each, now=number)
    assert [entry.message for entry in queue.due(70, 10).resend] == [first, second, third]
    assert (queue.count_of("ann"), list(queue.message_ids_of("ann"))) == (3, ["1", "1", "1"])
    assert queue.acknowledge("ann", "1")
    assert [entry.message for entry in queue.due(200, 10).resend] == [second, third]
    queue.add("ann", SentMessage("1", b"d"), now=200)  # behind those that wait, though the first place is free
    assert queue.acknowledge("ann", "1")
    assert queue.acknowledge("ann", "1")
    assert [entry.message.data for entry in queue.due(300, 10).resend] == [b"d"]
    assert queue.acknowledge("ann", "1")
    assert not queue.acknowledge("ann", "1")
    assert (len(queue), queue.bytes, queue._same) == (0, 0, {})


def test_of_one_id_the_oldest_is_given_up_over_the_limit(queue: AckQueue[str]) -> None:
    sent = [SentMessage("1", b"%d" % number) for number in range(5)]
    given_up = [each.entry.message for message in sent for each in queue.add("ann", message, now=0)]
    assert given_up == sent[:2]
    assert queue.forget("ann") == 3
    assert (len(queue), queue.bytes, queue._same) == (0, 0, {})


def test_a_connection_that_is_gone_owes_nothing(queue: AckQueue[str]) -> None:
    queue.add("ann", message("1"), now=0)
    queue.add("ann", message("2"), now=0)
    queue.add("bob", message("1"), now=0)
    assert queue.forget("ann") == 2
    assert queue.forget("ann") == 0
    assert list(queue.message_ids()) == ["1"]
    assert queue.connection_count == 1


def names(given_up: "list[GivenUp[str]] | tuple[GivenUp[str], ...] | object") -> list[tuple[str, str, str]]:
    assert isinstance(given_up, list | tuple)
    return [(each.entry.connection, each.entry.message.id, each.reason) for each in given_up]


ONE = message("0", 1000).size + ENTRY_BYTES
"""Bytes of one message of 1,000 that one connection owes."""


def test_a_message_counts_once_while_any_connection_owes_it() -> None:
    queue: AckQueue[str] = AckQueue(60, 600)
    shared = message("0", 1000)
    for connection in ("ann", "bob", "eve"):
        queue.add(connection, shared, now=0)
    assert queue.bytes == shared.size + 3 * (ENTRY_BYTES + CONNECTION_BYTES)
    queue.acknowledge("ann", "0")
    queue.forget("bob")
    assert queue.bytes == shared.size + ENTRY_BYTES + CONNECTION_BYTES
    queue.due(600, limit=10)
    assert queue.bytes == 0


def test_the_size_of_a_message_is_that_of_its_json_its_id_and_its_audience() -> None:
    assert message("ab", 100).size == MESSAGE_BYTES + sys.getsizeof("ab") + 100
    of_a_channel = SentMessage("ab", bytes(100), audience=Subscribers("news", None))
    assert of_a_channel.size == message("ab", 100).size + AUDIENCE_BYTES + sys.getsizeof("news")
    of_all = SentMessage("ab", bytes(100), audience=Subscribers(None, None))
    assert of_all.size == message("ab", 100).size + AUDIENCE_BYTES


def test_over_the_bytes_the_oldest_of_who_owes_most_is_given_up_until_the_rest_fits() -> None:
    queue: AckQueue[str] = AckQueue(60, 600, max_bytes=4 * ONE + 2 * CONNECTION_BYTES)
    queue.add("innocent", message("0", 1000), now=0)
    for number in range(3):
        assert names(queue.add("greedy", message(str(number), 1000), now=1)) == []
    assert names(queue.add("greedy", message("3", 1000), now=2)) == [("greedy", "0", "too_large")]
    assert names(queue.add("greedy", message("4", 2000), now=3)) == [
        ("greedy", "1", "too_large"),
        ("greedy", "2", "too_large"),
    ]
    assert list(queue.message_ids()) == ["0", "3", "4"]
    assert queue.acknowledge("innocent", "0")


def test_a_connection_that_owes_little_stays_also_when_its_message_is_the_one_too_many() -> None:
    queue: AckQueue[str] = AckQueue(60, 600, max_bytes=4 * ONE + 2 * CONNECTION_BYTES)
    for number in range(4):
        queue.add("greedy", message(str(number), 1000), now=0)
    assert names(queue.add("innocent", message("i", 1000), now=1)) == [("greedy", "0", "too_large")]
    assert queue.acknowledge("innocent", "i")


def test_sharing_does_not_hide_who_owes_most() -> None:
    """Messages that many owe cost little each, and still count in full against each of those who leave them lying."""
    queue: AckQueue[str] = AckQueue(60, 600, max_bytes=24 * ONE)
    shared = [message(str(number), 1000) for number in range(8)]
    greedy = [f"greedy-{number}" for number in range(8)]
    for each in shared:
        for connection in greedy:
            queue.add(connection, each, now=0)
    full = queue.bytes
    assert full + ONE > 24 * ONE
    given_up = [
        name for number in range(3) for name in names(queue.add("innocent", message(f"i{number}", 1000), now=1))
    ]
    assert {connection for connection, _, _ in given_up} == set(greedy)
    assert queue.forget("innocent") == 3


def test_a_message_larger_than_all_may_be_is_not_waited_for_and_costs_nobody_anything() -> None:
    queue: AckQueue[str] = AckQueue(60, 600, max_bytes=4 * ONE)
    queue.add("ann", message("0", 1000), now=0)
    assert names(queue.add("ann", message("1", 4 * ONE), now=0)) == [("ann", "1", "too_large")]
    assert names(queue.add("eve", message("1", 4 * ONE), now=0)) == [("eve", "1", "too_large")]
    assert (list(queue.message_ids()), queue.connection_count) == (["0"], 1)


def test_only_so_many_bytes_are_due_at_once_and_one_message_at_least() -> None:
    queue: AckQueue[str] = AckQueue(60, 600)
    for number in range(5):
        queue.add("ann", message(str(number), 1000), now=0)
    taken = []
    while resend := queue.due(60, limit=100, max_bytes=1500).resend:
        taken.append([entry.message.id for entry in resend])
    assert taken == [["0", "1"], ["2", "3"], ["4"]]
    assert [entry.message.id for entry in queue.due(120, limit=100, max_bytes=1).resend] == ["0"]


def test_only_so_many_are_given_up_at_once() -> None:
    queue: AckQueue[str] = AckQueue(60, 50)
    for number in range(5):
        queue.add("ann", message(str(number)), now=0)
    given_up = [[entry.message.id for entry in queue.due(50, limit=2).given_up] for _ in range(3)]
    assert given_up == [["0", "1"], ["2", "3"], ["4"]]


Step = tuple[str, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "ack", "forget", "time"]), st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)
    ),
    max_size=80,
)
SIZES = (0, 100, 1000, 5000)


@given(steps)
def test_what_is_counted_is_what_waits_after_any_steps(taken: list[Step]) -> None:
    """The sum is that of a recount, never above the limit, and each that is given up was the oldest of the largest."""
    queue: AckQueue[int] = AckQueue(10, 25, limit=4, max_bytes=9000)
    messages = {number: message(str(number), SIZES[number % 4]) for number in range(6)}
    model: dict[int, dict[str, int]] = {}
    now = 0

    def owed(connection: int) -> int:
        return sum(size + ENTRY_BYTES for size in model[connection].values())

    for action, connection, number, more in taken:
        if action == "add":
            given_up = queue.add(connection, messages[number], now)
            own = model.setdefault(connection, {})
            own.pop(str(number), None)
            own[str(number)] = messages[number].size
            for debtor, message_id, reason in names(given_up):
                if reason == "too_large":
                    assert owed(int(debtor)) == max(owed(each) for each in model)
                assert next(iter(model[int(debtor)])) == message_id
                del model[int(debtor)][message_id]
                model = {each: owing for each, owing in model.items() if owing}
        elif action == "ack":
            assert queue.acknowledge(connection, str(number)) == (str(number) in model.get(connection, {}))
            model.get(connection, {}).pop(str(number), None)
        elif action == "forget":
            assert queue.forget(connection) == len(model.pop(connection, {}))
        else:
            now += 5 * more
            for entry in queue.due(now, limit=100).given_up:
                del model[entry.connection][entry.message.id]
        model = {each: owing for each, owing in model.items() if owing}
        distinct = {message_id: size for owing in model.values() for message_id, size in owing.items()}
        assert len(queue) == sum(map(len, model.values()))
        assert queue.bytes == sum(distinct.values()) + len(queue) * ENTRY_BYTES + len(model) * CONNECTION_BYTES
        assert queue.bytes <= 9000
    for connection in tuple(model):
        queue.forget(connection)
    assert (queue.bytes, len(queue), len(queue._owed)) == (0, 0, 0)


def test_giving_up_does_not_grow_with_the_number_of_connections() -> None:
    def cost(count: int) -> int:
        queue: AckQueue[int] = AckQueue(60, 600)
        for connection in range(count):
            queue.add(connection, message(str(connection)), now=0)
        queue._max_bytes = queue.bytes
        queue.add(0, message("first"), now=0)  # who owes most is worked out here once for all
        return lines_run(lambda: queue.add(1, message("second"), now=0))

    few, many = cost(100), cost(10_000)
    assert 0 < few == many < 150


@contextmanager
def memory() -> Iterator[list[int]]:
    """Measure what the block adds to the memory in use."""
    grown: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield grown
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("connections", "messages", "size", "shared"),
    [(20, 1000, 100, True), (1000, 7, 100, True), (1, 1000, 30_000, False), (1000, 2, 200, False), (2000, 1, 0, True)],
)
def test_what_is_counted_is_what_it_takes(connections: int, messages: int, size: int, *, shared: bool) -> None:
    queue: AckQueue[object] = AckQueue(60, 600)
    clients = [object() for _ in range(connections)]
    now = 0.0
    with memory() as grown:
        for number in range(messages):
            same = message(f"{number:036}", size)
            for place, connection in enumerate(clients):
                now += 0.001
                queue.add(connection, same if shared else message(f"{number}-{place:030}", size), now)
        queue._owed.top()
        del same
    assert 0.5 < grown[0] / queue.bytes < 1.25


def test_what_is_counted_for_an_audience_is_what_it_takes() -> None:
    count = 5000
    with memory() as grown:
        kept = [Subscribers("".join(("news-", str(number))), "".join(("sub-", str(number)))) for number in range(count)]
        sizes = sum(
            SentMessage("", b"", audience=audience).size - MESSAGE_BYTES - sys.getsizeof("") for audience in kept
        )
    assert 0.8 < grown[0] / sizes < 1.1


def test_what_is_counted_for_messages_of_one_id_is_what_they_take() -> None:
    queue: AckQueue[object] = AckQueue(60, 600)
    clients = [object() for _ in range(500)]
    with memory() as grown:
        for number in range(2):
            for each in range(10):
                for client in clients:
                    queue.add(client, SentMessage(f"{each:036}", bytes(bytearray(100 + number))), now=0)
        queue._owed.top()
    assert queue.bytes > 5000 * SAME_ID_BYTES
    assert 0.5 < grown[0] / queue.bytes < 1.25


def test_a_connection_that_has_acknowledged_nearly_all_takes_little_again() -> None:
    queue: AckQueue[str] = AckQueue(60, 600)
    for number in range(700):
        queue.add("ann", message(str(number)), now=0)
    assert sys.getsizeof(queue._of["ann"]) > 20_000
    for number in range(699):
        queue.acknowledge("ann", str(number))
    assert sys.getsizeof(queue._of["ann"]) < ENTRY_BYTES + CONNECTION_BYTES
    assert list(queue.message_ids()) == ["699"]
