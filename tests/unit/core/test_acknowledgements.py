"""What is owed, and when it falls due."""

import pytest

from app.core.acknowledgements import AckQueue
from app.protocol.messages import Message


def message(message_id: str) -> Message:
    return Message(type="a", id=message_id)


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
    assert [entry and entry.message.id for entry in crowded_out] == [None, None, None, "0", "1"]
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
    queue.add("ann", message("1"), now=0)
    queue.add("ann", message("1"), now=30)
    assert (len(queue), due_ids(queue, 60), due_ids(queue, 90)) == (1, ([], []), (["1"], []))


def test_a_connection_that_is_gone_owes_nothing(queue: AckQueue[str]) -> None:
    queue.add("ann", message("1"), now=0)
    queue.add("ann", message("2"), now=0)
    queue.add("bob", message("1"), now=0)
    assert queue.forget("ann") == 2
    assert queue.forget("ann") == 0
    assert list(queue.message_ids()) == ["1"]
    assert queue.connection_count == 1
