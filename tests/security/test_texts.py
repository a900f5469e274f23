"""Texts that are made to take long to read: by socket, by HTTP and from the topic."""

import asyncio
from collections import Counter

import pytest

from tests.security import attackers
from tests.security.programs import AFTER, KEPT, Outcome, PeakMemory, attack_beside, innocents, memory_of
from tests.support.cluster import Topic
from tests.support.process import Server
from tests.support.pubsub_server import PubSubServer

pytestmark = [pytest.mark.once, pytest.mark.alone]

TEXTS = {
    "deep_texts": {"error_too_deep", "error_invalid_json"},
    "deep_deflated": {"error_too_deep", "error_invalid_json"},
    "deep_posts": {"status_400"},
    "many_keys": {"error_invalid_field"},
    "repeated_keys": {"error_duplicate_key", "error_invalid_field"},
}
"""Attacks, and the answers that the service may give."""


@pytest.mark.parametrize("text", TEXTS)
async def test_hostile_text_delays_nobody(text: str) -> None:
    """A message of 260 kB that is made to be hard to read is refused, and delays nobody."""
    async with Server(**KEPT) as server, innocents(server) as (innocent, quiet):
        outcome = await attack_beside(innocent, quiet, text, server, connections=1, rest=0.1)
        outcome.is_harmless()
        answers = set(outcome.counts) - {"opened"}
        assert answers, outcome
        assert answers <= TEXTS[text], outcome


async def test_bombs_delay_nobody() -> None:
    """Ten connections that send texts of 300 bytes, each 260 kB when inflated, delay nobody."""
    async with Server(**KEPT) as server, innocents(server) as (innocent, quiet):
        outcome = await attack_beside(innocent, quiet, "bombs", server, connections=10)
        assert outcome.counts["opened"] >= 10, outcome
        outcome.is_harmless()


async def test_hostile_text_from_the_topic_delays_nobody(pubsub_server: PubSubServer) -> None:
    """A publisher's message that is hard to read is dropped, and delays nobody."""
    topic = Topic(pubsub_server.address, "news")
    try:
        async with topic.server() as server, innocents(server) as (innocent, quiet):
            memory = PeakMemory(server)
            for data in (attackers.brackets(), attackers.keys(repeated=True)):
                for _ in range(5):
                    await topic.publish(data)
            await asyncio.gather(*(topic.publish(attackers.brackets(), type="announce") for _ in range(5)))
            attacked = await innocent.report(2 * AFTER)
            codes = ("invalid_json", "too_deep", "duplicate_key", "invalid_field")
            dropped = [await server.metric(f'malformed_dropped_total{{code="{code}"}}') for code in codes]
            assert sum(dropped) == 15, dropped
            Outcome(quiet, attacked, Counter(), memory.peak, memory_of(server)).is_harmless()
    finally:
        await topic.close()
