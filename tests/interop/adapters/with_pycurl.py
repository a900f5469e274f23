"""pycurl, which brings libcurl. Waits for input on either side, and for nothing else."""

import os
import select
import sys

import pycurl

from tests.interop.adapters.lines import LONGEST, URL, say, split

curl = pycurl.Curl()
curl.setopt(pycurl.URL, URL)
curl.setopt(pycurl.CONNECT_ONLY, 2)
curl.perform()
say("open")
orders = b""
message = bytearray()


def received() -> bool:
    """Take what came; return whether there may be more."""
    try:
        data, meta = curl.ws_recv(LONGEST)
    except BlockingIOError:
        return False
    except pycurl.error as error:
        if error.args[0] == pycurl.E_AGAIN:
            return False
        say("error", error)
        os._exit(0)
    if meta.flags & pycurl.WS_CLOSE:
        say("close", int.from_bytes(data[:2], "big"), data[2:].decode())
        os._exit(0)
    message.extend(data)
    if not meta.bytesleft and not meta.flags & pycurl.WS_CONT:
        say("text", message.decode())
        message.clear()
    return True


def send(data: bytes, flags: int) -> None:
    while data:
        try:
            data = data[curl.ws_send(data, flags) :]
        except (BlockingIOError, pycurl.error):
            select.select([], [curl.getinfo(pycurl.ACTIVESOCKET)], [])


while True:
    while received():
        pass
    readable, _, _ = select.select([curl.getinfo(pycurl.ACTIVESOCKET), sys.stdin], [], [])
    if sys.stdin not in readable:
        continue
    more = os.read(sys.stdin.fileno(), LONGEST)
    if not more:
        break
    *whole, orders = (orders + more).split(b"\n")
    for line in whole:
        word, rest = split(line.decode())
        if word == "text":
            send(rest.encode(), pycurl.WS_TEXT)
        else:
            send((1000).to_bytes(2, "big") + b"bye", pycurl.WS_CLOSE)
