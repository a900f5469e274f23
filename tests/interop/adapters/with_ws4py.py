"""ws4py."""

from typing import Any

from ws4py.client.threadedclient import WebSocketClient

from tests.interop.adapters.lines import URL, obey_in_thread, say


class Client(WebSocketClient):
    def received_message(self, message: Any) -> None:
        say("text", message)

    def closed(self, code: int, reason: Any = None) -> None:
        say("close", code, reason.decode() if isinstance(reason, bytes) else reason)


client = Client(URL)
client.connect()
say("open")
obey_in_thread(client.send, lambda: client.close(1000, "bye"))
client.run_forever()
