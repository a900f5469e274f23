"""What came before is known again, within bounds."""

from app.core.deduplication import Deduplicator, RecentKeys


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
    assert known.carried_before("1", None, None, now=0) is None
    assert known.carried_before("1", None, None, now=0) == "pubsub_id"
    assert known.carried_before("2", "here", "1", now=0) is None
    assert known.carried_before("2", "here", "1", now=0) == "sequence"
    assert known.carried_before("3", "here", "1", now=0) == "sequence"
    assert known.carried_before("4", "there", "1", now=0) is None
    assert known.carried_before(None, None, None, now=0) is None


def test_an_id_is_its_senders_own() -> None:
    known = Deduplicator()
    assert not known.sent_before("ann", "1", now=0)
    assert not known.sent_before("bob", "1", now=0)
    assert known.sent_before("ann", "1", now=599)
    assert not known.sent_before("ann", "1", now=600)
