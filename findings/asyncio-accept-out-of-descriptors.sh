#!/usr/bin/env bash
# What: asyncio's accept loop where file descriptors run out.
# Version: CPython 3.11.7, 3.12.1 and 3.13.0 (Linux), asyncio's own selector loop.
# Behaviour: the loop's callback tries to accept as often as `backlog` says, and goes on when a try fails with EMFILE.
#   So one such moment is reported to the exception handler `backlog` times in one turn of the loop (with the default
#   handler: as many tracebacks in the log), and as many timers are set that begin to accept again. Each of these may
#   do the same a second later, so that reports and timers grow instead of ending.
# Seen (backlog 300, one connection waiting): 300 reports and 300 timers at once; 600 or more reports a second later.
# What one would expect: one report, and one timer.
# For users: a large listening queue makes it worse. A listening socket whose accept() raises BlockingIOError for a
#   second after the first EMFILE ends the loop early.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/program.py" <<'PYTHON'
import asyncio
import resource
import socket

BACKLOG = 300


async def main() -> None:
    loop = asyncio.get_running_loop()
    reports = []
    loop.set_exception_handler(lambda _loop, context: reports.append(context["message"]))
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0, backlog=BACKLOG)
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(server.sockets[0].getsockname())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no new descriptor from here on
    await asyncio.sleep(0.3)
    timers = sum("_start_serving" in repr(timer) for timer in loop._scheduled)
    print(f"at once: {len(reports)} reports, {timers} timers")
    assert (len(reports), timers) == (BACKLOG, BACKLOG)
    await asyncio.sleep(1.3)
    print(f"a second later: {len(reports)} reports")
    assert len(reports) >= 2 * BACKLOG
    assert set(reports) == {"socket.accept() out of system resource"}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


asyncio.run(main())
PYTHON
"${PYTHON:-python3}" "$folder/program.py"
