"""QtWebSockets 5, by Debian's PyQt5 and Python."""

import sys

from PyQt5.QtCore import QCoreApplication, QSocketNotifier, QUrl
from PyQt5.QtWebSockets import QWebSocket

from tests.interop.adapters.lines import URL, say, split

application = QCoreApplication([])
socket = QWebSocket()
socket.connected.connect(lambda: say("open"))
socket.textMessageReceived.connect(lambda text: say("text", text))
socket.disconnected.connect(lambda: say("close", int(socket.closeCode()), socket.closeReason()))
socket.error.connect(lambda error: say("ended", error, socket.errorString()))
socket.open(QUrl(URL))


def order() -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        application.quit()
    word, rest = split(line.decode())
    if word == "text":
        socket.sendTextMessage(rest)
    elif word == "close":
        socket.close(1000, "bye")


notifier = QSocketNotifier(0, QSocketNotifier.Read)
notifier.activated.connect(order)
application.exec_()
