"""A real browser."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.browser.engines import chromium


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """The Chromium of this machine."""
    async with chromium() as found:
        yield found
