"""Floods: twenty connections send as fast as they can, and a client beside them notices nothing."""

import pytest

from tests.security.programs import KEPT, SMALL, attack_beside, innocents
from tests.support.process import Server

pytestmark = [pytest.mark.once, pytest.mark.alone]

FLOODS = ["pongs", "pings", "fragments", "empty_fragments", "errors", "details", "messages", "reconnects"]


@pytest.mark.parametrize("flood", FLOODS)
async def test_flood_delays_nobody(flood: str) -> None:
    """A client beside twenty that flood gets each message once, in order, within a second, and memory stays bounded."""
    async with Server(**KEPT, **SMALL) as server, innocents(server) as (innocent, quiet):
        outcome = await attack_beside(innocent, quiet, flood, server)
        assert outcome.counts["opened"] >= 20, outcome
        outcome.is_harmless()
