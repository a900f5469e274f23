"""The bound on what waits to be accepted by a fan-out."""

import logging

from app.fanout import Fanout, Publication
from app.metrics import Metrics
from app.protocol.errors import ErrorCode, MessageError

logger = logging.getLogger(__name__)

MAX_MESSAGES = 10_000
"""Messages that may wait, beside the bound in bytes: many small ones cost more than their bytes."""


class Backlog:
    """Publishes to a fan-out, as long as no more than `limit` bytes wait there to be accepted."""

    def __init__(self, fanout: Fanout, limit: int, metrics: Metrics) -> None:
        self._fanout = fanout
        self._limit = limit
        self._metrics = metrics
        self.bytes = 0
        self.messages = 0

    async def publish(self, publication: Publication) -> str | None:
        """As Fanout.publish; raises MessageError and nothing else, `unavailable` also when too much waits."""
        size = len(publication.data)
        if self.bytes + size > self._limit or self.messages >= MAX_MESSAGES:
            self._metrics.published.labels("shared", "refused").inc()
            raise MessageError(ErrorCode.UNAVAILABLE, "too many messages wait to be published; try again")
        self.bytes += size
        self.messages += 1
        try:
            carrier_id = await self._fanout.publish(publication)
        except MessageError:
            self._metrics.published.labels("shared", "failed").inc()
            raise
        except Exception as error:
            self._metrics.published.labels("shared", "failed").inc()
            logger.exception("the fan-out failed to publish")
            raise MessageError(ErrorCode.UNAVAILABLE, "the message could not be published; try again") from error
        finally:
            self.bytes -= size
            self.messages -= 1
        self._metrics.published.labels("shared", "accepted").inc()
        return carrier_id
