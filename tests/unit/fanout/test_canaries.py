"""Own messages on their way around."""

from app.fanout.pubsub.canaries import Canaries


def test_one_that_is_heard_tells_how_long_it_took() -> None:
    canaries = Canaries()
    canaries.send("k", "1", 10)
    canaries.stored("k", "1", 11)
    assert canaries.heard("k", "2", 12) is None
    assert canaries.heard("k", "1", 12.5) == 2.5
    assert canaries.heard("k", "1", 13) is None


def test_the_first_of_a_key_stands_for_those_behind_it() -> None:
    canaries = Canaries()
    canaries.send("k", "1", 10)
    canaries.send("k", "2", 11)
    assert canaries.heard("k", "1", 12) == 2
    assert not canaries.any_of(["k"])


def test_only_what_was_stored_can_be_overdue() -> None:
    canaries = Canaries()
    for key in ("stored", "failed", "under way"):
        canaries.send(key, "1", 0)
    canaries.stored("stored", "1", 5)
    canaries.failed("failed", "1")
    assert canaries.overdue(14, 10) == []
    assert canaries.overdue(15, 10) == ["stored"]
    assert canaries.any_of(["under way"])
    assert not canaries.any_of(["failed"])


def test_one_that_is_heard_before_its_publishing_was_answered_is_heard() -> None:
    canaries = Canaries()
    canaries.send("k", "1", 0)
    canaries.heard("k", "1", 1)
    canaries.stored("k", "1", 2)
    assert canaries.overdue(100, 10) == []


def test_a_new_proof_takes_the_place_of_what_flew() -> None:
    canaries = Canaries()
    canaries.send("k", "1", 0)
    canaries.replace("k", "2", 1)
    canaries.failed("k", "1")
    assert canaries.heard("k", "1", 2) is None
    assert canaries.any_of(["k"])
