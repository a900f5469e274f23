"""Close frames with a code that came after wsproto (checked with 1.3): 1014, a bad gateway behind the sender.

The codes up to 2999 are the standard's, and one that it does not define is an error (RFC 6455, 7.4.2). IANA's registry
has had this one for years.
"""

from typing import Any

from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol

BAD_GATEWAY = 1014
_AS_SENT = BAD_GATEWAY.to_bytes(2, "big")
_KNOWN = CloseReason.TRY_AGAIN_LATER.to_bytes(2, "big")


class Frames(FrameProtocol):
    """Frames as wsproto reads them, and that code."""

    def _process_close(self, frame: Frame) -> Frame:
        payload: Any = frame.payload
        if payload[:2] != _AS_SENT:
            return super()._process_close(frame)
        read: Any = super()._process_close(frame._replace(payload=_KNOWN + payload[2:]))
        return Frame(read.opcode, (BAD_GATEWAY, read.payload[1]), read.frame_finished, read.message_finished)
