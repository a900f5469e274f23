"""The service on a server that takes no ready frames: `python -m tests.support.by_message` for `python -m app`."""

import os
from unittest.mock import patch

from app.__main__ import main

if __name__ == "__main__":
    with patch("app.server.control._transport_of", return_value=None):
        os._exit(main([]))
