"""The arithmetic behind docs/operations.md, against numbers that were worked out by hand."""

import importlib.util
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fanout.pubsub.listener import Times
from tests.support.process import ROOT

_spec = importlib.util.spec_from_file_location("costs", ROOT / "docs" / "costs.py")
assert _spec is not None
assert _spec.loader is not None
costs = importlib.util.module_from_spec(_spec)
sys.modules["costs"] = costs
_spec.loader.exec_module(costs)

PRICES = costs.Prices()
DEFAULT = costs.Instances()
MONTH = 2_628_000


@pytest.mark.parametrize(("users", "count"), [(0, 1), (1, 1), (665, 1), (666, 2), (10_000, 16), (1_000_000, 1504)])
def test_so_many_instances_take_so_many_users(users: int, count: int) -> None:
    assert costs.instances(costs.Workload(users), DEFAULT) == count


def test_an_instance_is_never_fuller_than_terraform_lets_it_be() -> None:
    assert costs.instances(costs.Workload(950), replace(DEFAULT, fill=1.0)) == 1
    assert costs.instances(costs.Workload(951), replace(DEFAULT, fill=1.0)) == 2


def test_an_instance_and_its_collector_for_a_month() -> None:
    one = costs.bill(costs.Workload(1, received_per_second=0), DEFAULT, PRICES)
    assert one.cloud_run == pytest.approx(MONTH * (2 * 0.000018 + 1.5 * 0.000002))
    assert one.pubsub == 0


def test_a_small_message_counts_as_a_kilobyte_for_its_publishing_and_for_each_instance() -> None:
    workload = costs.Workload(1000, received_per_second=1, receivers=1000)
    assert costs.published_per_second(workload) == 1
    assert costs.pubsub_bytes(workload, 3, PRICES) == MONTH * 1000 * 4
    large = replace(workload, message=5000, attributes=0)
    assert costs.pubsub_bytes(large, 3, PRICES) == MONTH * 5000 * 4
    batched = replace(workload, message=100, attributes=100, batch=10)
    assert costs.pubsub_bytes(batched, 3, PRICES) == MONTH * 200 * 4


def test_the_first_ten_gibibytes_are_free() -> None:
    assert costs.pubsub_cost(10 * costs.GIB, PRICES) == 0
    assert costs.pubsub_cost(10 * costs.GIB + costs.TIB, PRICES) == pytest.approx(40)


def test_egress_gets_cheaper_in_steps() -> None:
    tiers = PRICES.egress_tiers
    assert costs.tiered(1024, tiers) == pytest.approx(122.88)
    assert costs.tiered(10 * 1024, tiers) == pytest.approx(122.88 + 9 * 1024 * 0.11)
    assert costs.tiered(10 * 1024 + 1, tiers) == pytest.approx(122.88 + 9 * 1024 * 0.11 + 0.08)


def test_egress_is_messages_pings_and_handshakes() -> None:
    silent = costs.Workload(1, received_per_second=0, ping_interval=25, reconnect_after=3600)
    assert costs.egress_bytes(silent) == pytest.approx(MONTH * (costs.PACKET / 25 + costs.HANDSHAKE / 3600))
    spoken = replace(silent, received_per_second=2, message=300)
    assert costs.egress_bytes(spoken) - costs.egress_bytes(silent) == pytest.approx(
        MONTH * 2 * (300 + costs.FRAME_OVERHEAD)
    )


def test_heartbeats_of_all_instances_grow_with_their_square() -> None:
    few, many = (costs.loopback_bytes(1 / 60, count, PRICES) for count in (10, 100))
    assert few == pytest.approx(10 * 11 / 60 * MONTH * 1000)
    assert many / few == pytest.approx(100 * 101 / (10 * 11))


def test_a_heartbeat_is_as_rare_as_the_service_sends_it() -> None:
    assert sum(Times().heartbeat) / 2 == costs.HEARTBEAT_EVERY
    bytes_a_month = costs.loopback_bytes(1 / costs.HEARTBEAT_EVERY, 100, PRICES)
    assert bytes_a_month == pytest.approx(100 * 101 / 250 * MONTH * 1000)
    assert costs.pubsub_cost(bytes_a_month, PRICES) < 5


def test_what_deflate_saves_is_measured() -> None:
    small, large = (costs.deflated(costs.typical_message(size)) for size in (200, 4000))
    assert 0.5 < small < 0.9
    assert large < small / 1.5
    assert costs.deflated(b"x") == 1


def test_users_split_over_services_cost_pubsub_less() -> None:
    workload = costs.Workload(1_000_000)
    whole = costs.bill(workload, DEFAULT, PRICES).pubsub
    assert costs.split(workload, 1, DEFAULT, PRICES) == pytest.approx(whole)
    assert costs.split(workload, 16, DEFAULT, PRICES) == pytest.approx(whole / 16, rel=0.02)


def test_topics_by_hash_save_next_to_nothing_until_there_are_very_many() -> None:
    one, some, many = (costs.simulate_sharding(topics) for topics in (1, 64, 100_000))
    assert (one.topics_heard, one.heard) == (1, pytest.approx(1))
    assert some.heard > 0.95
    assert many.heard < some.heard
    assert costs.simulate_sharding(16) == costs.simulate_sharding(16)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_users_never_cost_less(fewer: int, more: int) -> None:
    fewer, more = sorted((fewer, more))
    small, large = (costs.bill(costs.Workload(users), DEFAULT, PRICES) for users in (fewer, more))
    assert small.cloud_run <= large.cloud_run
    assert small.pubsub <= large.pubsub
    assert small.egress <= large.egress
    assert small.total == pytest.approx(small.cloud_run + small.pubsub + small.egress)


def test_the_tables_in_the_document_are_these() -> None:
    text = costs.DOCUMENT.read_text()
    assert costs.with_tables(text) == text, "make format writes them anew"
    assert text.count("| --- | ---: |") >= 3
    for price in (PRICES.vcpu_second, PRICES.gib_second):
        assert f"${price:.6f}" in text
    assert "$0.12 for a GiB" in text
