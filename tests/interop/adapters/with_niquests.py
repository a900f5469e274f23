"""niquests, which always offers compression."""

import niquests

from tests.interop.adapters.lines import URL, obey_in_thread, say

with niquests.Session() as session:
    answer = session.get(URL)
    answer.raise_for_status()
    socket = answer.extension
    say("open")
    obey_in_thread(socket.send_payload, socket.close)
    while (text := socket.next_payload()) is not None:
        say("text", text)
    say("close", "without a code")
    session.close()
