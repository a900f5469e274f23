"""wsproto, which leaves sockets and answers to its user."""

import os
import select
import socket
import sys
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.interop.adapters.lines import DEFLATE, LONGEST, URL, say, split

parts = urlsplit(URL)
connection = WSConnection(ConnectionType.CLIENT)
raw = socket.create_connection((parts.hostname, parts.port or 80))


def send(event: Event) -> None:
    raw.sendall(connection.send(event))


send(Request(parts.netloc, parts.path, extensions=[PerMessageDeflate()] if DEFLATE else []))
orders = b""
message = ""
while True:
    readable, _, _ = select.select([raw, sys.stdin], [], [])
    if raw in readable:
        data = raw.recv(65536)
        connection.receive_data(data or None)
        for event in connection.events():
            if isinstance(event, AcceptConnection):
                say("open")
            elif isinstance(event, TextMessage):
                message += event.data
                if event.message_finished:
                    say("text", message)
                    message = ""
            elif isinstance(event, Ping):
                send(event.response())
            elif isinstance(event, CloseConnection):
                say("close", event.code, event.reason)
                if connection.state.name == "REMOTE_CLOSING":
                    send(event.response())
        if not data:
            break
    if sys.stdin in readable:
        more = os.read(sys.stdin.fileno(), LONGEST)
        if not more:
            break
        *whole, orders = (orders + more).split(b"\n")
        for line in whole:
            word, rest = split(line.decode())
            send(TextMessage(rest) if word == "text" else CloseConnection(1000, "bye"))
