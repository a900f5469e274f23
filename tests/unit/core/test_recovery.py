"""What a client that comes back gets, or why it gets nothing. The skew is 10."""

import pytest

from app.core.history import EVERYONE, History, Stream
from app.core.position import Mark, Position
from app.core.recovery import Behind, Reason, Recovered, Unproven, heard_through, recover

NEWS = Stream.channel("news")
INBOX = Stream.inbox("ann")
SKEW = 10


def mark(name: str) -> Mark:
    """`k12b` is a message of the key k, of time 12; `-12` has no order."""
    key, time = name[0], name[1:].rstrip("abcdef")
    return Mark(int(time), name, None if key == "-" else key)


def at(time: int, *names: str) -> Position:
    """A position: what came last of each key."""
    return Position.at("", time, [last for name in names if (last := mark(name).last)])


class Instance:
    """A history that is filled with names."""

    def __init__(
        self,
        *names: str,
        stream: Stream = NEWS,
        size: int = 100,
        covers_from: int | None = 0,
        begins_there: bool = False,
    ) -> None:
        self.history: History[str] = History(size=size, ttl=1000, max_bytes=10**9)
        self.covers_from = covers_from
        self.begins_there = begins_there
        self.hear(*names, stream=stream)

    def hear(self, *names: str, stream: Stream = NEWS) -> "Instance":
        for name in names:
            self.history.add(stream, mark(name), name, 1, 0)
        return self

    def recover(self, position: Position, *streams: Stream, epoch: str = "") -> Recovered[str] | Unproven:
        logs = self.history.logs(streams or (NEWS,))
        return recover(
            logs,
            position,
            epoch=epoch,
            covers_from=self.covers_from,
            skew=SKEW,
            begins_there=self.begins_there,
        )

    def replay(self, position: Position, *streams: Stream) -> list[str]:
        recovered = self.recover(position, *streams)
        assert isinstance(recovered, Recovered), recovered
        return [each.message for each in recovered.replay]

    def reason(self, position: Position, *streams: Stream, epoch: str = "") -> Reason:
        recovered = self.recover(position, *streams, epoch=epoch)
        assert isinstance(recovered, Unproven), recovered
        return recovered.reason


def test_what_came_behind_the_named_message_is_replayed_in_order() -> None:
    assert Instance("k50", "k51", "k52", "k53").replay(at(51, "k51")) == ["k52", "k53"]
    assert Instance("k50", "k51").replay(at(51, "k51")) == []


def test_within_a_batch_the_id_tells_the_place() -> None:
    instance = Instance("k50a", "k50c", "k50b", "k50d")
    assert instance.replay(at(50, "k50c")) == ["k50b", "k50d"]


def test_each_key_has_a_frontier_of_its_own() -> None:
    instance = Instance("k50", "j60", "k51", "j61")
    assert instance.replay(at(60, "k51", "j60")) == ["j61"]
    assert instance.replay(at(61, "k50", "j61")) == ["k51"]


def test_an_old_message_is_not_lost_behind_a_newer_one_of_another_key() -> None:
    assert Instance("k5", "j60", "k6", "k7").replay(at(60, "j60", "k5")) == ["k6", "k7"]


def test_what_no_position_names_is_replayed_with_an_overlap() -> None:
    instance = Instance("-50", "-51", "j52", "-40", "k60", "-58")
    assert instance.replay(at(60, "k60")) == ["-51", "j52", "-58"]


def test_a_position_of_an_empty_channel_brings_what_is_newer_than_the_skew() -> None:
    assert Instance("k50", "k51", "k62").replay(at(60)) == ["k51", "k62"]
    assert Instance().replay(at(60)) == []


def test_nothing_may_be_gone_behind_the_named_message() -> None:
    instance = Instance(*(f"k{time}" for time in range(50, 60)), size=4)
    assert instance.replay(at(56, "k56")) == ["k57", "k58", "k59"]
    assert instance.replay(at(55, "k55")) == ["k56", "k57", "k58", "k59"], "the last that is gone"
    assert instance.reason(at(54, "k54")) is Reason.EVICTED


def test_of_a_batch_that_is_half_gone_only_the_last_gone_is_a_place() -> None:
    instance = Instance("k50a", "k50b", "k50c", "k50d", size=2)
    assert instance.replay(at(50, "k50b")) == ["k50c", "k50d"]
    assert instance.reason(at(50, "k50a")) is Reason.EVICTED


def test_a_tombstone_proves_that_nothing_came() -> None:
    instance = Instance("k50")
    instance.history.expire(2000)
    assert instance.replay(at(50, "k50")) == []
    assert instance.reason(at(40, "k40")) is Reason.EVICTED


def test_the_gone_of_another_key_counts_by_its_time() -> None:
    instance = Instance("j50", "k60", size=1)
    assert instance.replay(at(60, "k60")) == []
    assert Instance("j51", "k60", size=1).reason(at(60, "k60")) is Reason.EVICTED
    assert Instance("-51", "k60", size=1).reason(at(60, "k60")) is Reason.EVICTED
    assert Instance("-50", "k60", size=1).replay(at(60, "k60")) == []


def test_a_stream_that_was_forgotten_proves_only_what_is_newer() -> None:
    instance = Instance("k50")
    instance.history.forgotten_through = 50
    other = Stream.channel("other")
    assert instance.reason(at(50, "k50"), other) is Reason.EVICTED
    assert instance.reason(at(59), other) is Reason.EVICTED
    assert instance.replay(at(60), other) == []
    assert instance.replay(at(60, "k40"), other) == [], "what the client has not had is newer than 50"


def test_the_stream_must_be_whole_from_before_the_position() -> None:
    assert Instance("k60", covers_from=50).replay(at(60, "k60")) == []
    assert Instance("k60", covers_from=51).reason(at(60, "k60")) is Reason.UNCOVERED
    assert Instance("k60", covers_from=None).reason(at(60, "k60")) is Reason.UNCOVERED


def test_where_the_topic_itself_begins_nothing_came_before() -> None:
    assert Instance("k58", "k60", covers_from=55, begins_there=True).replay(at(60, "k60")) == []
    assert Instance("k58", "k60", covers_from=58, begins_there=True).replay(at(58, "k58")) == ["k60"]
    assert Instance("k62", covers_from=61, begins_there=True).reason(at(60, "k60")) is Reason.UNCOVERED


def test_a_key_that_rested_since_before_this_instance_began_is_no_obstacle() -> None:
    instance = Instance("k62", covers_from=50)
    assert instance.replay(at(60, "k5")) == ["k62"]


def test_a_batch_that_began_before_this_instance_proves_nothing() -> None:
    assert Instance("k20b", "k62", covers_from=20).reason(at(60, "k20a")) is Reason.UNKNOWN


def test_an_instance_that_is_behind_holds_back_what_the_client_had() -> None:
    instance = Instance("k50", "k51")
    recovered = instance.recover(at(60, "k60b"))
    assert isinstance(recovered, Recovered)
    assert recovered.replay == []
    arriving = ["k55", "k60a", "j56", "-57", "k60b", "k60c", "k61"]
    assert [name for name in arriving if recovered.behind.passes(mark(name))] == ["j56", "-57", "k60c", "k61"]
    assert not recovered.behind


def test_half_a_batch_that_has_arrived_is_not_replayed() -> None:
    instance = Instance("k55", "k60a")
    recovered = instance.recover(at(60, "k60b"))
    assert isinstance(recovered, Recovered)
    assert recovered.replay == []
    assert not recovered.behind.passes(mark("k60b"))
    assert recovered.behind.passes(mark("k60c"))


def test_a_position_of_the_future_waits() -> None:
    recovered = Instance("k50").recover(at(900, "k900"))
    assert isinstance(recovered, Recovered)
    assert not recovered.behind.passes(mark("k899"))
    assert recovered.behind.passes(mark("k901"))


def test_a_message_that_ought_to_be_here_makes_the_position_unknown() -> None:
    assert Instance("k50", "k61").reason(at(60, "k60")) is Reason.UNKNOWN
    assert Instance("k50", "k61").reason(at(60, "k20")) is Reason.UNKNOWN


def test_another_epoch_is_another_world() -> None:
    assert Instance("k50").reason(at(50, "k50"), epoch="later") is Reason.EPOCH


def test_without_a_history_nothing_is_proven() -> None:
    assert Instance("k50", size=0).reason(at(50, "k50")) is Reason.OFF


def test_the_streams_of_a_welcome_are_one() -> None:
    instance = Instance("k50", "j52", stream=INBOX).hear("k51", "-53", stream=EVERYONE).hear("k54", stream=INBOX)
    assert instance.replay(at(53, "k50", "j52"), INBOX, EVERYONE) == ["k51", "-53", "k54"]
    assert instance.replay(at(51, "k51", "j52"), INBOX, EVERYONE) == ["-53", "k54"]


def test_what_one_stream_lost_behind_the_message_of_another_is_lost() -> None:
    instance = Instance("k50", stream=INBOX, size=1).hear("k51", "k52", stream=EVERYONE)
    assert instance.reason(at(50, "k50"), INBOX, EVERYONE) is Reason.EVICTED


def test_the_embedded_sequence_needs_no_overlap() -> None:
    history: History[str] = History(size=100, ttl=1000, max_bytes=10**9, epoch="e")
    for number in (1, 2, 3):
        history.add(NEWS, Mark(number, str(number), ""), str(number), 1, 0)
    empty = Position("e", 2)
    recovered = recover(history.logs([NEWS]), empty, epoch="e", covers_from=0, skew=0)
    assert isinstance(recovered, Recovered)
    assert [each.message for each in recovered.replay] == ["3"]


def test_a_replay_bears_positions_that_forget_nothing() -> None:
    instance = Instance("k55", "k56", "j58", "j59", "j60")
    recovered = instance.recover(at(59, "k55", "j59"))
    assert isinstance(recovered, Recovered)
    assert [(each.message, each.position, each.own) for each in recovered.replay] == [
        ("k56", at(59, "k56", "j59"), False),
        ("j60", at(60, "k56", "j60"), True),
    ]


def test_the_reply_bears_a_position_that_loses_nothing() -> None:
    instance = Instance("k50", "k51", "j52")
    fresh = at(52, "k51", "j52")
    replaying = instance.recover(at(50, "k50"))
    level = instance.recover(at(52, "k51", "j52"))
    ahead = instance.recover(at(60, "k60", "j52"))
    assert isinstance(replaying, Recovered)
    assert isinstance(level, Recovered)
    assert isinstance(ahead, Recovered)
    assert replaying.acknowledged(fresh) == at(50, "k50")
    assert level.acknowledged(fresh) is fresh
    assert ahead.acknowledged(fresh) == at(60, "k60", "j52")


def behind(*, awaited: str | None = None, missed: str | None = None) -> Behind:
    return Behind(at(0, *filter(None, [awaited])).last, at(0, *filter(None, [missed])).last, SKEW)


def test_what_is_sent_meanwhile_bears_what_the_client_had() -> None:
    waiting = behind(awaited="k60")
    assert waiting.position(at(58, "k50", "j58")) == at(58, "k60", "j58")
    assert waiting.position(at(58, "j58")) == at(58, "k60", "j58")
    unchanged = at(61, "k61", "j58")
    assert waiting.position(unchanged) is unchanged, "it went by, for others"
    assert not waiting


def test_what_is_too_old_to_be_replayed_needs_no_mention() -> None:
    missed = behind(missed="k40")
    assert missed.position(at(59, "j59")) == at(59, "k40", "j59")
    assert not missed.passes(mark("k39"))
    assert missed.position(at(60, "j60")) == at(60, "j60")
    assert not missed
    awaited = behind(awaited="k40")
    assert awaited.position(at(60, "j60")) == at(60, "j60")
    assert awaited, "it may still come"


@pytest.mark.parametrize(("heard", "covers_from", "through"), [(60, 50, 60), (55, 50, 60), (55, None, 55)])
def test_the_first_positions_of_an_instance_can_be_recovered(heard: int, covers_from: int | None, through: int) -> None:
    assert heard_through(heard, covers_from, SKEW) == through
