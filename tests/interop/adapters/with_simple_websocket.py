"""simple-websocket."""

from simple_websocket import Client, ConnectionClosed

from tests.interop.adapters.lines import LONGEST, URL, obey_in_thread, say

socket = Client.connect(URL, max_message_size=LONGEST)
say("open")
obey_in_thread(socket.send, lambda: socket.close(1000, "bye"))
try:
    while True:
        say("text", socket.receive())
except ConnectionClosed as ended:
    say("close", int(ended.reason), ended.message)
