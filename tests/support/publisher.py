"""A service that publishes with google-cloud-pubsub: `python -m tests.support.publisher TOPIC CHANNEL COUNT`.

It publishes COUNT messages of each of the two forms, in turn.
"""

import json
import os
import sys

from google.cloud import pubsub_v1


def main(topic: str, channel: str, count: int) -> None:
    """Publish, and return when all is stored."""
    publisher = pubsub_v1.PublisherClient(
        publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
    )
    path = publisher.topic_path(os.environ["GOOGLE_CLOUD_PROJECT"], topic)
    for number in range(count):
        whole = json.dumps({"type": "announce", "channel": channel, "payload": ["whole", number], "own": True})
        publisher.publish(path, whole.encode(), ordering_key="k").result()
        alone = json.dumps(["alone", number])
        publisher.publish(path, alone.encode(), ordering_key="k", type="announce", channel=channel).result()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
