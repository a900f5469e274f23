"""The hub with pings that come sooner, and with patience for slow machines: `python -m tests.interop.hub`."""

import os
from unittest.mock import patch

from app.__main__ import main
from app.server.pings import Pings

INTERVAL, TIMEOUT = 2.0, 4.0
"""Seconds."""

if __name__ == "__main__":
    with patch("app.server.serve.Pings", lambda: Pings(INTERVAL, TIMEOUT)):
        os._exit(main([]))
