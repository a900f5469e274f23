"""The service with pings that come sooner, so that a test need not wait: `python -m tests.support.quick_pings`."""

import os
from unittest.mock import patch

from app.__main__ import main
from app.server.pings import Pings

INTERVAL, TIMEOUT = 2.0, 1.0
"""Seconds."""

if __name__ == "__main__":
    with patch("app.server.serve.Pings", lambda: Pings(INTERVAL, TIMEOUT)):
        os._exit(main([]))
