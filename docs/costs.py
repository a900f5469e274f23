"""What it costs to run: the arithmetic behind docs/operations.md.

`python docs/costs.py` prints the tables; `python docs/costs.py --write` puts them into operations.md (`make format`).
All amounts are US dollars for a month of 730 hours. List prices; free tiers of Cloud Run and discounts are left out.
"""

import argparse
import json
import math
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

MONTH = 730 * 3600
"""Seconds."""
GIB = 2**30
TIB = 2**40
DOCUMENT = Path(__file__).with_name("operations.md")


@dataclass(frozen=True)
class Prices:
    """List prices of a tier 1 region such as europe-west1, as of `date`.

    Sources: cloud.google.com/run/pricing (instance-based billing), cloud.google.com/pubsub/pricing (Message Delivery
    Basic), cloud.google.com/vpc/network-pricing (Premium Tier, internet egress).
    """

    date: str = "2026-11"
    vcpu_second: float = 0.000018
    gib_second: float = 0.000002
    pubsub_tib: float = 40.0
    pubsub_free_gib: float = 10.0
    pubsub_smallest_request: int = 1000
    """Bytes: a smaller publish or pull request counts as this much."""
    egress_tiers: tuple[tuple[float, float], ...] = ((1024, 0.12), (10 * 1024, 0.11), (math.inf, 0.08))
    """(up to so many GiB a month, for each GiB)."""


@dataclass(frozen=True)
class Workload:
    """Who is connected, and what they get."""

    users: int
    received_per_second: float = 0.1
    """Messages a second that a user receives, on average."""
    receivers: float = 50
    """Users that a published message reaches, on average."""
    message: int = 330
    """Bytes of a message, as a WebSocket frame's payload."""
    attributes: int = 150
    """Bytes that Pub/Sub counts beside the data: attributes, ordering key, message id and time."""
    deflate: float = 1.0
    """A frame's size on the wire, compressed, of its size without."""
    batch: float = 1.0
    """Messages that share a Pub/Sub request; grows by itself with the load of each instance."""
    ping_interval: float = 25.0
    """Seconds between pings to a socket."""
    reconnect_after: float = 3150.0
    """Seconds after which a socket moves on: at 80 to 95 % of a request timeout of 3,600."""


@dataclass(frozen=True)
class Instances:
    """How Terraform's defaults run it."""

    sockets: int = 950
    """service.concurrency - service.http_room"""
    fill: float = 0.7
    """How full an instance is, on average: Cloud Run starts another before they are full."""
    least: int = 1
    vcpu: float = 1.0
    gib: float = 1.0
    sidecar_vcpu: float = 1.0
    sidecar_gib: float = 0.5


FRAME_OVERHEAD = 2 + 2 + 29
"""Bytes: a WebSocket header, and its share of TLS (22) and of TCP and IP for packets of several frames (rounded)."""
PACKET = 40 + 29
"""Bytes of a packet with nothing but a ping or a pong in it, encrypted."""
HEARTBEAT_EVERY = 250
"""Seconds, on average: app.fanout.pubsub.listener.Times.heartbeat."""
HANDSHAKE = 6_000
"""Bytes to the client when it connects: TLS certificates, the upgrade, welcome, answers to its subscriptions."""


def instances(workload: Workload, of: Instances) -> int:
    """How many instances so many sockets need."""
    return max(of.least, math.ceil(workload.users / (of.sockets * of.fill)))


def published_per_second(workload: Workload) -> float:
    """Messages a second on the topic."""
    return workload.users * workload.received_per_second / workload.receivers


def pubsub_bytes(workload: Workload, count: int, prices: Prices) -> float:
    """Bytes a month that Pub/Sub counts: each message once when it is published, and once for each instance."""
    counted = max(workload.message + workload.attributes, prices.pubsub_smallest_request / workload.batch)
    return published_per_second(workload) * MONTH * counted * (1 + count)


def loopback_bytes(per_second: float, count: int, prices: Prices) -> float:
    """Bytes a month of messages that instances send themselves, so many a second by each, each to all of them."""
    return per_second * count * MONTH * prices.pubsub_smallest_request * (1 + count)


def egress_bytes(workload: Workload) -> float:
    """Bytes a month to the clients."""
    frame = workload.message * workload.deflate + FRAME_OVERHEAD
    a_second = workload.received_per_second * frame + PACKET / workload.ping_interval
    return workload.users * MONTH * (a_second + HANDSHAKE / workload.reconnect_after)


def tiered(gib: float, tiers: tuple[tuple[float, float], ...]) -> float:
    """What so many GiB cost where the price falls with the amount."""
    cost, below = 0.0, 0.0
    for limit, price in tiers:
        cost += max(0.0, min(gib, limit) - below) * price
        below = limit
    return cost


@dataclass(frozen=True)
class Bill:
    """Dollars a month."""

    cloud_run: float
    pubsub: float
    egress: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.cloud_run + self.pubsub + self.egress


def pubsub_cost(bytes_a_month: float, prices: Prices) -> float:
    """What Pub/Sub asks for so many bytes."""
    return max(0.0, bytes_a_month - prices.pubsub_free_gib * GIB) / TIB * prices.pubsub_tib


def bill(workload: Workload, of: Instances, prices: Prices) -> Bill:
    """What a workload costs. An instance with a socket is never idle, and all are billed for all of the time."""
    count = instances(workload, of)
    vcpu, gib = of.vcpu + of.sidecar_vcpu, of.gib + of.sidecar_gib
    return Bill(
        cloud_run=count * MONTH * (vcpu * prices.vcpu_second + gib * prices.gib_second),
        pubsub=pubsub_cost(pubsub_bytes(workload, count, prices), prices),
        egress=tiered(egress_bytes(workload) / GIB, prices.egress_tiers),
    )


def typical_message(payload_bytes: int = 200) -> bytes:
    """An announce as a client gets it, with the ids and the time that every message has."""
    draw = random.Random(1)
    words = ["order", "price", "status", "open", "closed", "amount", "customer", "updated", "items", "total"]
    payload: dict[str, object] = {}
    while len(json.dumps(payload)) < payload_bytes:
        payload[f"{draw.choice(words)}{len(payload)}"] = draw.choice([draw.randrange(10**6), draw.choice(words)])
    message = {
        "type": "announce",
        "channel": "orders",
        "id": f"{draw.getrandbits(128):032x}",
        "sentDateTime": "2026-11-24T05:41:19.123Z",
        "pubsubId": str(draw.randrange(10**16)),
        "payload": payload,
    }
    return json.dumps(message, separators=(",", ":")).encode()


def deflated(message: bytes) -> float:
    """The share that is left of a message which is compressed by itself, as one frame for all receivers must be."""
    compressor = zlib.compressobj(wbits=-15)
    squeezed = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return min(1.0, (len(squeezed) - 4) / len(message))


@dataclass(frozen=True)
class Sharding:
    """What an instance must hear when channels are spread over several topics."""

    topics: int
    topics_heard: float
    """Of them all, by an instance, on average."""
    heard: float
    """The share of all messages that an instance hears."""


def simulate_sharding(
    topics: int, *, sockets: int = 665, subscriptions: int = 3, channels: int = 20_000, skew: float = 1.0, seed: int = 1
) -> Sharding:
    """Spread channels over topics by hash, and clients over an instance by chance: what must it hear?

    `sockets` are those of one instance, `subscriptions` those of one socket. A channel's popularity, and the messages
    in it, fall with its rank to the power of `skew` (Zipf).
    """
    draw = random.Random(seed)
    weights = [1 / rank**skew for rank in range(1, channels + 1)]
    wanted = set(draw.choices(range(channels), cum_weights=list(accumulate(weights)), k=sockets * subscriptions))
    topic_of = [draw.randrange(topics) for _ in range(channels)]
    needed = {topic_of[channel] for channel in wanted}
    heard = sum(weight for channel, weight in enumerate(weights) if topic_of[channel] in needed)
    return Sharding(topics, len(needed) / topics, heard / sum(weights))


def split(workload: Workload, services: int, of: Instances, prices: Prices) -> float:
    """What Pub/Sub costs a month where the users are split over so many services, each with a topic of its own."""
    part = replace(workload, users=math.ceil(workload.users / services))
    counted = pubsub_bytes(part, instances(part, of), prices) * services
    return pubsub_cost(counted, prices)


def _dollars(amount: float) -> str:
    return "<1" if 0 < amount < 1 else f"{amount:,.0f}"


def _table(*rows: list[str]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"| --- |{' ---: |' * (len(row) - 1)}"


def tables(prices: Prices, of: Instances) -> str:
    """All tables of operations.md."""
    sizes = {f"{users:,}": Workload(users) for users in (100, 10_000, 1_000_000)}
    squeezed = deflated(typical_message())
    bills = {name: bill(workload, of, prices) for name, workload in sizes.items()}
    counts = {name: instances(workload, of) for name, workload in sizes.items()}
    batched = {name: replace(workload, batch=10) for name, workload in sizes.items()}
    compressed = {name: replace(workload, deflate=squeezed) for name, workload in sizes.items()}
    without = replace(of, sidecar_vcpu=0, sidecar_gib=0)

    def row(title: str, cells: Iterator[str]) -> list[str]:
        return [title, *cells]

    first = _table(
        row("connected users", (name for name in sizes)),
        row("instances", (f"{counts[name]:,}" for name in sizes)),
        row("messages published a second", (f"{published_per_second(one):,.1f}" for one in sizes.values())),
        row(
            "Pub/Sub deliveries a second (each message to each instance)",
            (f"{published_per_second(one) * counts[name]:,.1f}" for name, one in sizes.items()),
        ),
        row(
            "new sockets a second, at 3150 s each (87.5 % of the request timeout)",
            (f"{one.users / one.reconnect_after:,.1f}" for one in sizes.values()),
        ),
        row("egress, GiB a month", (f"{egress_bytes(one) / GIB:,.0f}" for one in sizes.values())),
        row("**Cloud Run, $**", (_dollars(one.cloud_run) for one in bills.values())),
        row("**Pub/Sub, $**", (_dollars(one.pubsub) for one in bills.values())),
        row("**egress, $**", (_dollars(one.egress) for one in bills.values())),
        row("**all, $ a month**", (f"**{_dollars(one.total)}**" for one in bills.values())),
        row("$ a user and year", (f"{12 * bills[name].total / one.users:,.2f}" for name, one in sizes.items())),
    )
    second = _table(
        row("the same, but", (name for name in sizes)),
        row(
            "without Google's collector: Cloud Run, $",
            (_dollars(bill(one, without, prices).cloud_run) for one in sizes.values()),
        ),
        row(
            "10 messages in each Pub/Sub request: Pub/Sub, $",
            (_dollars(bill(one, of, prices).pubsub) for one in batched.values()),
        ),
        row(
            f"deflate ({squeezed:.0%} of {len(typical_message())} bytes are left): egress, $",
            (_dollars(bill(one, of, prices).egress) for one in compressed.values()),
        ),
        row(
            "a quiet topic: one loopback in 15 s in all, $",
            (_dollars(pubsub_cost(loopback_bytes(1 / 15 / count, count, prices), prices)) for count in counts.values()),
        ),
    )
    third = _table(
        ["topics", "an instance subscribes to", "and hears of all messages"],
        *(
            [f"{one.topics:,}", f"{one.topics_heard * one.topics:,.0f} of them", f"{one.heard:.1%}"]
            for one in map(simulate_sharding, (1, 4, 16, 64, 256, 1024))
        ),
    )
    fourth = _table(
        ["instances that have nothing to say", "10", "100", "1,000"],
        *(
            row(
                title,
                (_dollars(pubsub_cost(loopback_bytes(1 / each, count, prices), prices)) for count in (10, 100, 1000)),
            )
            for title, each in (
                ("heartbeats, each in 200 to 300 s, $ a month", HEARTBEAT_EVERY),
                ("the same with one a minute, $ a month", 60),
                ("a canary of each in 20 s, $ a month", 20),
            )
        ),
    )
    return "\n\n".join("\n".join(table) for table in (first, second, third, fourth))


def with_tables(text: str) -> str:
    """The document's text with its numbers as they are computed: a marker stands before and after each."""
    sixteen = f"${_dollars(split(Workload(1_000_000), 16, Instances(), Prices()))}"
    text = re.sub(r"(<!-- sixteen -->).*?(<!-- /sixteen -->)", lambda found: found[1] + sixteen + found[2], text)
    for number, table in enumerate(tables(Prices(), Instances()).split("\n\n"), start=1):
        begin, end = f"<!-- table {number} of docs/costs.py -->\n", f"<!-- end of table {number} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description="What it costs to run.")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {DOCUMENT.name}")
    if parser.parse_args().write:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
    else:
        print(tables(Prices(), Instances()))


if __name__ == "__main__":
    main()
