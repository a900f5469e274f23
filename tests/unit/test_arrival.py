"""Reading what a fan-out hands in, no further than is needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.arrival import Address, Arrival
from app.fanout import Delivery
from app.protocol import codec
from app.protocol.errors import MessageError
from app.protocol.messages import Message

OWN = {"type": "announce", "channel": "news", "subId": "1", "origin": "here", "seq": "1"}
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=255)


def written_by_a_hub(id: str, **fields: str) -> bytes:
    return codec.encode(
        Message(type="announce", id=id, sent_date_time="2026-01-31T12:00:00.123Z", **fields)  # type: ignore[arg-type]
    )


def test_what_a_hub_published_is_addressed_without_being_read() -> None:
    arrival = Arrival(Delivery(b"never looked at", OWN))
    assert arrival.address == Address("announce", "news", "1", None)
    assert arrival.is_own


def test_it_is_read_when_it_is_wanted_and_its_faults_come_out_then() -> None:
    with pytest.raises(MessageError):
        _ = Arrival(Delivery(b"no JSON", OWN)).message
    with pytest.raises(MessageError):
        _ = Arrival(Delivery(b"no JSON", OWN)).id


def test_what_others_publish_is_read_at_once() -> None:
    assert Arrival(Delivery(b'{"type":"news","channel":"a"}', {})).address == Address("news", "a", None, None)
    assert Arrival(Delivery(b"1", {"type": "news", "userTag": "ann"})).address == Address("news", None, None, "ann")
    with pytest.raises(MessageError):
        Arrival(Delivery(b"no JSON", {}))
    with pytest.raises(MessageError):
        Arrival(Delivery(b"no JSON", {"origin": "somebody"}))


@given(NAMES, st.one_of(st.none(), NAMES))
def test_the_id_at_the_end_is_the_id(id: str, channel: str | None) -> None:
    place = {} if channel is None else {"channel": channel}
    data = written_by_a_hub(id, **place)
    assert codec.id_at_the_end(data) in (id, None)
    assert Arrival(Delivery(data, {"type": "announce", "origin": "here", "seq": "1", **place})).id == id


def test_the_id_at_the_end_is_found_for_every_id_that_a_hub_makes() -> None:
    id = "5a3c9d2e-0f1b-4c8d-9e7a-112233445566"
    assert codec.id_at_the_end(written_by_a_hub(id)) == id


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"type":"announce"}',
        b'{"type":"announce","id":"1"}',
        b'{"type":"announce","id":"1","sentDateTime":"yesterday"}',
        b'{"id":"1","type":"announce","sentDateTime":"2026-01-31T12:00:00.123Z"}',
        b'{"type":"announce","id":"a\\"b","sentDateTime":"2026-01-31T12:00:00.123Z"}',
    ],
)
def test_where_it_cannot_be_told_none_is(data: bytes) -> None:
    assert codec.id_at_the_end(data) is None


def test_an_id_in_the_payload_is_not_taken_for_it() -> None:
    payload = codec.encode_json({"id": "x", "sentDateTime": "2026-01-31T12:00:00.123Z"})
    message = codec.decode_published(b'{"type":"announce","payload":' + payload + b"}")
    assert codec.id_at_the_end(codec.encode(message)) is None
    assert (
        codec.id_at_the_end(codec.encode(message.stamped(id="mine", sent_date_time="2026-01-31T12:00:00.123Z")))
        == "mine"
    )
