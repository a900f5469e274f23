"""The service on uvloop, which is installed for the peers only; its folder is the argument."""

import asyncio
import os
import sys

if __name__ == "__main__":
    sys.path.append(sys.argv[1])  # behind everything of the service's own

    import uvloop

    from app.__main__ import main

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    os._exit(main([]))
