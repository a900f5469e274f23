"""What must be dropped once and never delivered: no message in either form of section 4 of the contract."""

OVERSIZED = 300_000
"""Bytes: above the service's default MAX_PAYLOAD."""

MALFORMED: list[tuple[bytes, dict[str, str]]] = [
    (b"", {}),
    (b"no json", {}),
    (b"\xff\xfe", {"type": "announce", "channel": "channel-0"}),
    (b"[1, 2", {"type": "announce", "channel": "channel-0"}),
    (b'["not", "an", "object"]', {}),
    (b'{"channel": "channel-0"}', {}),
    (b'{"type": "announce", "type": "announce", "channel": "channel-0"}', {}),
    (b'{"type": "announce", "channel": 7}', {}),
    (b'{"type": "announce", "subId": "1"}', {}),
    (b'{"type": "subscribe", "channel": "channel-0", "subId": "1"}', {}),
    (b'{"type": "ack", "channel": "channel-0", "subId": "1"}', {}),
    (b"1", {"type": "error", "channel": "channel-0"}),
    (b"1", {"type": "announce", "channel": "x" * 256}),
    (b'{"type": "announce", "channel": "channel-0", "payload": ' + b"[" * 200 + b"]" * 200 + b"}", {}),
    (b'"' + b"x" * OVERSIZED + b'"', {"type": "announce", "channel": "channel-0"}),
]
"""Data, and attributes."""
