"""Frames as another implementation of WebSockets reads them."""

import random
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage
from wsproto.extensions import PerMessageDeflate

from app.protocol.frame import DEFLATE_FROM, Frame


def received(wire: bytes, *, compression: bool) -> list[str]:
    """The text messages that a client reads."""
    deflate = PerMessageDeflate()
    if compression:
        deflate.finalize("permessage-deflate; server_no_context_takeover")
    client = Connection(ConnectionType.CLIENT, [deflate] if compression else [])
    client.receive_data(wire)
    messages, text = [], ""
    for event in client.events():
        assert isinstance(event, TextMessage)
        text += event.data
        if event.message_finished:
            messages.append(text)
            text = ""
    return messages


@given(st.text())
@example("x" * 125)
@example("x" * 126)
@example("x" * 65535)
@example("x" * 65536)
@example("é" * 40_000)
def test_any_text_is_read_as_it_was(text: str) -> None:
    frame = Frame(text.encode())
    assert frame.text == text
    assert frame.size == len(text.encode())
    assert received(frame.plain(), compression=False) == [text]
    assert received(frame.plain(), compression=True) == [text]
    assert received(frame.deflated(), compression=True) == [text]


@pytest.mark.parametrize("size", [DEFLATE_FROM, 4000, 4095, 4096, 4097, 20_000])
@pytest.mark.parametrize("kind", ["regular", "random"])
def test_short_and_long_are_inflated_alike(size: int, kind: str) -> None:
    chance = random.Random(size)
    letters = "ab" if kind == "regular" else "".join(map(chr, range(32, 127)))
    text = "".join(chance.choice(letters) for _ in range(size))
    assert received(Frame(text.encode()).deflated(), compression=True) == [text]


def test_a_short_message_loses_little_by_its_small_window() -> None:
    chance = random.Random(1)
    for size in (300, 1000, 4096):
        words = "".join(chance.choice(["news ", "of ", "the ", '"day":', "12", "7 "]) for _ in range(size))
        data = words[:size].encode()
        whole = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        assert len(Frame(data).deflated()) <= 1.02 * len(whole.compress(data) + whole.flush(zlib.Z_SYNC_FLUSH))


def test_frames_stand_for_themselves_in_any_order() -> None:
    first, second = (Frame(letter.encode() * 1000) for letter in "ab")
    wires = second.deflated() + first.deflated() + second.deflated() + first.plain()
    assert received(wires, compression=True) == [second.text, first.text, second.text, first.text]


@pytest.mark.parametrize(("size", "smaller"), [(DEFLATE_FROM - 1, False), (DEFLATE_FROM, True), (100_000, True)])
def test_what_is_worth_it_is_compressed(size: int, smaller: bool) -> None:
    frame = Frame(b"x" * size)
    assert (len(frame.deflated()) < len(frame.plain())) == smaller
    assert (frame.deflated()[0] & 0x40 != 0) == smaller


def test_what_grows_by_compression_is_sent_as_it_is() -> None:
    noise = zlib.compress(bytes(range(256)) * 40)[2:]
    frame = Frame(noise * 2 if len(noise) > DEFLATE_FROM else bytes(range(256)) * 2)
    grown = Frame(bytes((number * 7919 + number // 3) % 251 for number in range(DEFLATE_FROM)))
    assert grown.deflated() == grown.plain() or len(grown.deflated()) < len(grown.plain())
    assert len(frame.deflated()) <= len(frame.plain())


def test_each_form_is_made_once() -> None:
    frame = Frame(b"x" * 1000)
    assert frame.plain() is frame.plain()
    assert frame.deflated() is frame.deflated()
