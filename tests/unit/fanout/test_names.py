"""How things are called in Pub/Sub."""

import re

from app.fanout.pubsub.names import TopicName, all_ordering_keys, instance_subscription_id, label, ordering_key


def test_full_names_are_made_of_project_and_name() -> None:
    topic = TopicName("p", "news")
    assert topic.path == "projects/p/topics/news"
    assert topic.subscription("s") == "projects/p/subscriptions/s"


def test_a_rebuilt_subscription_has_a_number() -> None:
    names = [instance_subscription_id("news", "0123456789ab", generation) for generation in (1, 2, 3)]
    assert names == ["news-0123456789ab", "news-0123456789ab-2", "news-0123456789ab-3"]


def test_channels_spread_over_sixteen_keys_that_are_the_same_everywhere() -> None:
    keys = {ordering_key(f"channel-{number}") for number in range(1000)}
    assert keys == set(all_ordering_keys())
    assert len(keys) == 16
    assert ordering_key("news") == "cs-00"


def test_a_label_is_what_pubsub_takes() -> None:
    assert label("Hub-00042.Ä") == "hub-00042--"
    assert re.fullmatch(r"[a-z0-9_-]{63}", label("X" * 100))
