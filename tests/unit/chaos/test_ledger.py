"""The ledger finds each broken promise, and excuses nothing but what a client was told of."""

import itertools
import random

import pytest

from tests.chaos.ledger import IN_DOUBT, UNORDERED, Ledger, Message, Source, Track, Wrong


class Book:
    """A ledger of one channel with a source and a client that has joined, and a clock that goes on by itself."""

    def __init__(self) -> None:
        self.clock = itertools.count(1.0)
        self.ledger = Ledger()
        self.source = self.ledger.source("ann", "news", "key")
        self.track = self.join("client")

    def now(self) -> float:
        return next(self.clock)

    def join(self, client: str) -> Track:
        track = self.ledger.track(client, "news")
        track.joined(self.now())
        return track

    def publish(self, count: int, source: Source | None = None) -> list[Message]:
        """So many messages, one accepted after the other."""
        published = []
        for _ in range(count):
            message = (source or self.source).begin(self.now())
            message.accept(self.now())
            published.append(message)
        return published

    def deliver(self, *messages: Message, track: Track | None = None) -> None:
        for message in messages:
            self.ledger.receive(track or self.track, message.source.name, message.number)

    def gap(self) -> None:
        self.track.resumed(recovered=False, now=self.now())

    @property
    def wrong(self) -> list[Wrong]:
        return [violation.wrong for violation in self.ledger.verdict().violations]


@pytest.fixture
def book() -> Book:
    return Book()


def test_all_once_and_in_order_is_right(book: Book) -> None:
    book.deliver(*book.publish(5))
    verdict = book.ledger.verdict()
    assert verdict.violations == []
    assert (verdict.accepted, verdict.in_doubt, verdict.delivered, verdict.missed) == (5, 0, 5, 0)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_one_that_did_not_come_is_lost(book: Book, at: int) -> None:
    messages = book.publish(5)
    del messages[at]
    book.deliver(*messages)
    assert book.wrong == [Wrong.LOST]
    assert book.ledger.verdict().violations[0].what.startswith(f"ann#{at} ")


def test_to_have_recovered_excuses_nothing(book: Book) -> None:
    messages = book.publish(4)
    book.deliver(messages[0])
    book.track.resumed(recovered=True, now=book.now())
    book.deliver(*messages[2:])
    assert book.wrong == [Wrong.LOST]


def test_one_that_came_twice_is_doubled(book: Book) -> None:
    messages = book.publish(3)
    book.deliver(*messages, messages[1])
    assert book.wrong == [Wrong.DOUBLED]


def test_no_gap_excuses_one_that_came_twice(book: Book) -> None:
    messages = book.publish(3)
    book.deliver(*messages)
    book.gap()
    book.deliver(messages[2])
    assert book.wrong == [Wrong.DOUBLED]


def test_two_that_came_the_other_way_round_are_out_of_order(book: Book) -> None:
    one, two, three = book.publish(3)
    book.deliver(one, three, two)
    assert book.wrong == [Wrong.REORDERED]


def test_to_have_recovered_excuses_no_disorder(book: Book) -> None:
    one, two, three = book.publish(3)
    book.deliver(one, three)
    book.track.resumed(recovered=True, now=book.now())
    book.deliver(two)
    assert book.wrong == [Wrong.REORDERED]


def test_sources_of_one_ordering_key_share_its_order(book: Book) -> None:
    other = book.ledger.source("bob", "news", "key")
    (one,) = book.publish(1)
    (two,) = book.publish(1, other)
    book.deliver(two, one)
    assert book.wrong == [Wrong.REORDERED]


def test_other_ordering_keys_have_orders_of_their_own(book: Book) -> None:
    other = book.ledger.source("bob", "news", "another key")
    unordered = book.ledger.source("cid", "news", None)
    (one,) = book.publish(1)
    (two,) = book.publish(1, other)
    three, four = book.publish(2, unordered)
    book.deliver(four, three, two, one)
    assert book.wrong == []


def at_once(book: Book) -> tuple[Message, Message]:
    """Two messages that were under way together."""
    other = book.ledger.source("bob", "news", "key")
    one, two = book.source.begin(1), other.begin(2)
    one.accept(3)
    two.accept(4)
    return one, two


@pytest.mark.parametrize("between", [0, 1, 20])
def test_of_two_that_were_under_way_together_clients_may_get_each_another_first_which_is_counted(
    book: Book, between: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.ledger.DISAGREEMENTS", 1000)
    one, two = at_once(book)
    second = book.join("second")
    others = [book.ledger.source(f"other-{number}", "news", "key").begin(2.5) for number in range(between)]
    book.deliver(two, *others, one)
    book.deliver(one, *others[::-1], two, track=second)
    assert book.wrong == []
    assert book.ledger.verdict().disagreements == 1 + 2 * between + between * (between - 1) // 2


def test_clients_that_disagree_often_are_out_of_order(book: Book) -> None:
    one, two = at_once(book)
    second = book.join("second")
    book.deliver(two, one)
    assert book.wrong == []
    book.deliver(one, two, track=second)
    assert book.wrong == [Wrong.REORDERED]
    assert "1 pairs" in book.ledger.verdict().violations[0].what


def test_clients_may_not_disagree_about_what_was_not_under_way_together(book: Book) -> None:
    """Both orders may be right, of one that nobody knows when it was stored; but not both at once for ever."""
    book.publish(200)
    doubtful = book.source.begin(1000)
    later = book.ledger.source("bob", "news", "key").begin(1000 + IN_DOUBT + 1)
    later.accept(1000 + IN_DOUBT + 2)
    second = book.join("second")
    book.deliver(doubtful, later)
    book.deliver(later, doubtful, track=second)
    assert [what for what in book.wrong if what is not Wrong.LOST] == [Wrong.REORDERED]


def test_a_gap_ends_what_clients_can_disagree_about(book: Book) -> None:
    one, two = at_once(book)
    second = book.join("second")
    book.deliver(one)
    book.gap()
    book.deliver(two)
    book.deliver(two, one, track=second)
    assert book.wrong == []
    assert book.ledger.verdict().disagreements == 0


@pytest.mark.parametrize("place", range(6))
def test_a_gap_excuses_what_may_have_been_there(book: Book, place: int) -> None:
    messages = book.publish(5)
    book.deliver(*messages[: max(0, place - 1)])
    book.gap()
    book.deliver(*messages[place:])
    verdict = book.ledger.verdict()
    assert verdict.violations == []
    assert (verdict.missed, verdict.unproven) == (1 if place else 0, 1)


def test_a_gap_does_not_excuse_what_is_missing_before_it(book: Book) -> None:
    messages = book.publish(5)
    book.deliver(messages[0], messages[2])
    book.gap()
    book.deliver(*messages[3:])
    assert book.wrong == [Wrong.LOST]


def test_a_gap_does_not_excuse_what_is_missing_behind_it(book: Book) -> None:
    messages = book.publish(5)
    book.deliver(messages[0])
    book.gap()
    book.deliver(messages[2], messages[4])
    violations = book.ledger.verdict().violations
    assert [(each.wrong, each.what.split()[0]) for each in violations] == [(Wrong.LOST, "ann#3")]


def test_a_gap_does_not_excuse_what_was_published_after_it(book: Book) -> None:
    book.deliver(*book.publish(2))
    book.gap()
    book.publish(1)
    book.deliver(*book.publish(1))
    assert book.wrong == [Wrong.LOST]


def test_between_two_gaps_everything_has_to_come(book: Book) -> None:
    book.deliver(*book.publish(2))
    book.gap()
    messages = book.publish(3)
    book.deliver(messages[0], messages[2])
    book.gap()
    book.deliver(*book.publish(1))
    assert book.wrong == [Wrong.LOST]


def test_a_gap_without_order_excuses_what_was_published_before_it_only(book: Book) -> None:
    unordered = book.ledger.source("cid", "news", None)
    one, _, three = book.publish(3, unordered)
    book.deliver(three, one)
    book.gap()
    assert book.ledger.verdict().missed == 1
    book.publish(1, unordered)
    assert book.wrong == [Wrong.LOST]


def test_a_gap_without_order_excuses_nothing_of_long_before_it(book: Book) -> None:
    unordered = book.ledger.source("cid", "news", None)
    lost, *others = book.publish(int(UNORDERED), unordered)
    book.deliver(*others)
    book.gap()
    assert book.wrong == [Wrong.LOST]
    assert not lost.in_doubt


def test_a_gap_of_another_client_or_channel_excuses_nothing(book: Book) -> None:
    second = book.join("second")
    inbox = book.ledger.track("client", None)
    messages = book.publish(3)
    second.resumed(recovered=False, now=book.now())
    inbox.resumed(recovered=False, now=book.now())
    book.deliver(*messages, track=second)
    book.deliver(*messages[:2])
    assert book.wrong == [Wrong.LOST]


def test_behind_a_gap_begins_another_order(book: Book) -> None:
    one, two, three = book.publish(3)
    book.deliver(one, three)
    book.gap()
    book.deliver(two)
    assert book.wrong == []


def test_what_was_not_accepted_may_come_once_or_not(book: Book) -> None:
    book.source.begin(book.now())
    doubtful = book.source.begin(book.now())
    book.deliver(*book.publish(1), doubtful)
    verdict = book.ledger.verdict()
    assert (verdict.violations, verdict.in_doubt) == ([], 2)
    book.deliver(doubtful)
    assert book.wrong == [Wrong.DOUBLED]


def test_what_was_in_doubt_when_it_came_and_was_accepted_later_has_to_come_to_all(book: Book) -> None:
    message = book.source.begin(book.now())
    book.deliver(message)
    second = book.join("second")
    assert book.wrong == []
    message.accept(book.now())
    assert book.wrong == [], "it was begun before the second joined"
    (late,) = book.publish(1)
    book.deliver(late)
    assert book.wrong == [Wrong.LOST]
    book.deliver(late, track=second)
    assert book.wrong == []


def test_what_was_begun_before_a_client_joined_may_come_once_or_not(book: Book) -> None:
    early = book.publish(2)
    book.deliver(*early)
    late = book.join("late")
    book.deliver(early[1], track=late)
    assert book.wrong == []
    book.deliver(early[1], track=late)
    assert book.wrong == [Wrong.DOUBLED]


def test_what_nobody_published_or_not_to_there_is_found(book: Book) -> None:
    book.ledger.source("eve", "elsewhere", "key").begin(book.now())
    book.ledger.receive(book.track, "ann", 0)
    book.ledger.receive(book.track, "eve", 0)
    book.ledger.receive(book.track, "nobody", 0)
    book.ledger.receive(book.track, None, "x")
    assert book.wrong == [Wrong.FOREIGN] * 4


def test_one_change_to_a_long_run_is_found_whatever_it_is() -> None:
    chance = random.Random(1)
    for _ in range(300):
        book = Book()
        messages: list[Message | None] = [*book.publish(50)]
        gap = chance.randrange(3, 40)
        messages[gap : gap + 5] = [None]  # five are missing, and the client was told so
        change = chance.choice(["drop", "repeat", "swap"])
        at = chance.choice([at for at in range(len(messages) - 1) if None not in messages[max(0, at - 1) : at + 2]])
        if change == "drop":
            del messages[at]
        elif change == "repeat":
            messages.insert(chance.randrange(at, len(messages)), messages[at])
        else:
            messages[at], messages[at + 1] = messages[at + 1], messages[at]
        for message in messages:
            if message is None:
                book.gap()
            else:
                book.deliver(message)
        expected = {"drop": Wrong.LOST, "repeat": Wrong.DOUBLED, "swap": Wrong.REORDERED}[change]
        assert (book.wrong, book.ledger.verdict().missed) == ([expected], 5)


def test_what_a_stay_owes_is_what_was_before_something_that_came(book: Book) -> None:
    stay = book.ledger.track("client", "news", is_passing=True)
    before = book.publish(1)
    stay.joined(book.now())
    first, second, third = book.publish(3)
    book.deliver(first, third, track=stay)
    stay.left(book.now())
    book.deliver(*before, first, second, third, track=book.join("another"))
    book.track.joined_at = book.now()
    lost = [violation for violation in book.ledger.verdict().violations if violation.wrong is Wrong.LOST]
    assert [(each.client, str(second) in each.what) for each in lost if each.client == "client"] == [("client", True)]


def test_the_end_of_a_stay_owes_nothing(book: Book) -> None:
    book.track.joined(book.now())
    first, second = book.publish(2)
    book.deliver(first)
    book.track.left(book.now())
    assert book.wrong == []
    assert not second.in_doubt


def test_what_was_published_after_a_leave_was_answered_may_not_come(book: Book) -> None:
    under_way = book.publish(1)
    book.track.left(book.now())
    late = book.publish(1)
    book.deliver(*under_way)
    assert book.wrong == []
    book.deliver(*late)
    assert book.wrong == [Wrong.STAYED]


def test_a_message_comes_once_over_all_stays(book: Book) -> None:
    messages = book.publish(2)
    book.deliver(*messages)
    book.track.left(book.now())
    again = book.ledger.track("client", "news", is_passing=True)
    again.joined(book.now())
    book.deliver(messages[1], track=again)
    assert book.wrong == [Wrong.DOUBLED]


def test_a_stay_has_the_order_of_those_who_stay_for_good(book: Book) -> None:
    one, other = book.source.begin(1.0), book.source.begin(2.0)
    one.accept(3.0)
    other.accept(4.0)
    stay = book.ledger.track("guest", "news", is_passing=True)
    book.deliver(one, other)
    book.deliver(other, one, track=stay)
    verdict = book.ledger.verdict()
    assert verdict.stays == 1
    assert "clients disagree" in str(verdict.violations)
