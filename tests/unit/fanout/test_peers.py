"""Who lives, and who clears up behind the dead."""

from hypothesis import given
from hypothesis import strategies as st

from app.fanout.pubsub import peers as module
from app.fanout.pubsub.peers import Peers, chosen, instance_of, silent

SECOND = 10**9
A, B, C = "a" * 12, "b" * 12, "c" * 12
GRACE = 1800


def name(instance_id: str, end: str = "") -> str:
    return f"projects/demo/subscriptions/hub-{instance_id}{end}"


def orphans(*subscriptions: str, spoke: dict[str, int], since: int = 0, now: int = 10_000, seen: int = 0) -> list[str]:
    peers = Peers()
    for instance_id, seconds in spoke.items():
        peers.spoke(instance_id, seconds * SECOND)
    found = dict.fromkeys(subscriptions, seen * SECOND)
    return list(silent(found, peers, prefix="hub", since_ns=since * SECOND, now_ns=now * SECOND, grace=GRACE))


def test_whoever_spoke_within_the_grace_lives() -> None:
    assert orphans(name(A), name(B), spoke={A: 8_300, B: 8_100}) == [name(B)]


def test_all_subscriptions_of_a_dead_instance_are_orphans() -> None:
    assert orphans(name(A), name(A, "-2"), spoke={A: 1}) == [name(A), name(A, "-2")]


def test_who_was_never_heard_is_dead_only_after_a_whole_grace_of_listening() -> None:
    assert orphans(name(A), spoke={}, since=8_300) == []
    assert orphans(name(A), spoke={}, since=8_199) == [name(A)]


def test_a_subscription_that_was_just_made_is_given_the_whole_grace() -> None:
    assert orphans(name(A), spoke={}, seen=9_000) == []


def test_what_no_instance_is_called_is_none() -> None:
    assert instance_of(name(A, "-12"), "hub") == A
    assert [instance_of(name(A, second), "hub") for second in ("-0", "-12-0")] == [A, A]
    others = [name("A" * 12), name("a" * 11), name(A, "-x"), f"projects/demo/subscriptions/other-{A}", name(A) + "b"]
    assert [instance_of(one, "hub") for one in others] == [None] * 5
    assert instance_of(f"projects/demo/subscriptions/h.b-{A}", "h.b") == A
    assert instance_of(name(A), "h.b") is None


def test_an_old_message_that_comes_late_makes_nobody_older() -> None:
    peers = Peers()
    peers.spoke(A, 10)
    peers.spoke(A, 5)
    peers.told(A, "r")
    peers.told(B, "not heard")
    assert peers.since(0) == {A: ("r", 10)}
    peers.forget_before(11)
    assert peers.since(0) == {}


def test_more_instances_than_there_can_be_are_not_kept_and_silence_proves_nothing_then() -> None:
    peers = Peers()
    for number in range(module.MAX_PEERS + 1):
        peers.spoke(f"{number:012x}", 1)
    assert len(peers.since(0)) == module.MAX_PEERS
    assert peers.overflowed
    peers.forget_before(2)
    peers.spoke("x" * 1000, 3)  # the name of no instance: nothing of ours is missed
    assert (peers.overflowed, peers.since(0)) == (False, {})


@given(st.sets(st.sampled_from([f"{number:012x}" for number in range(50)]), min_size=1), st.text())
def test_whoever_is_asked_the_same_one_does_it(alive: set[str], task: str) -> None:
    assert chosen(task, alive) == chosen(task, sorted(alive, reverse=True))
    assert chosen(task, alive) in alive
    gone = chosen(task, alive)
    if alive - {gone}:
        assert chosen(task, alive - {gone}) != gone


def test_the_work_is_spread() -> None:
    done = [chosen(name(f"{number:012x}"), {A, B, C}) for number in range(300)]
    assert min(done.count(one) for one in (A, B, C)) > 50
