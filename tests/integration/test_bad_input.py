"""Whatever a client sends, it gets its documented answer, and nobody else notices."""

import asyncio
import json
import struct

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.support.client import Client
from tests.support.deadline import soon, until
from tests.support.process import Server

pytestmark = pytest.mark.usefixtures("both_ways")

NAME = "a string of 1 to 255 characters"

ANSWERS: list[tuple[str, str, str]] = [
    ("{", "invalid_json", "not JSON"),
    ("", "invalid_json", "not JSON"),
    ('{"type":"announce",}', "invalid_json", "not JSON"),
    ('{"type":"announce","payload":NaN}', "invalid_json", "not JSON"),
    ("[]", "not_an_object", "JSON object"),
    ("42", "not_an_object", "JSON object"),
    ('"subscribe"', "not_an_object", "JSON object"),
    ("null", "not_an_object", "JSON object"),
    ('{"type":"announce","type":"broadcast"}', "duplicate_key", '"type"'),
    ('{"type":"announce","payload":' + "[" * 128 + "]" * 128 + "}", "too_deep", "128"),
    ('{"type":"announce","payload":' + "[" * 50_000 + "]" * 50_000 + "}", "too_deep", "128"),
    ("{}", "missing_field", "type"),
    ('{"type":null}', "invalid_field", NAME),
    ('{"type":7}', "invalid_field", NAME),
    ('{"type":""}', "invalid_field", NAME),
    ('{"type":"announce","channel":null}', "invalid_field", "channel"),
    ('{"type":"announce","channel":["a"]}', "invalid_field", "channel"),
    ('{"type":"announce","channel":""}', "invalid_field", "channel"),
    (json.dumps({"type": "announce", "channel": "x" * 256}), "invalid_field", "channel"),
    ('{"type":"announce","channel":"a\\u0000"}', "invalid_field", "channel"),
    ('{"type":"announce","channel":"a","subId":{}}', "invalid_field", "subId"),
    ('{"type":"announce","id":7}', "invalid_field", "id"),
    ('{"type":"announce","ackId":{}}', "invalid_field", "ackId"),
    ('{"type":"announce","ackId":1.5}', "invalid_field", "ackId"),
    ('{"type":"notification","userTag":false}', "invalid_field", "userTag"),
    ('{"type":"announce","subId":"a"}', "missing_field", "channel"),
    ('{"type":"subscribe"}', "missing_field", "channel"),
    ('{"type":"subscribe","channel":"a"}', "missing_field", "subId"),
    ('{"type":"ack"}', "missing_field", "id"),
    ('{"type":"notification"}', "missing_field", "userTag"),
    ('{"type":"cloud-sockets.logout","userTag":"ann"}', "reserved_type", "cloud-sockets."),
    ('{"type":"welcome"}', "unsupported_type", "welcome"),
    ('{"type":"error"}', "unsupported_type", "error"),
    ('{"type":"surprise"}', "unsupported_type", "surprise"),
]


async def test_each_bad_message_has_its_answer_and_the_socket_goes_on() -> None:
    async with Server() as server, Client(server.url) as bystander:
        await bystander.subscribe("a", "b")
        for text, code, words in ANSWERS:
            async with Client(server.url) as ann:
                await ann.send(text)
                error = await ann.receive()
                assert (error["type"], error["code"], error["temporary"]) == ("error", code, False), text[:80]
                assert words in error["value"], text[:80]
                try:
                    came = json.loads(text)
                except (ValueError, RecursionError):
                    came = None
                readable = isinstance(came, dict) and code not in ("duplicate_key", "too_deep", "invalid_json")
                assert error["msg"] == (came if readable else text[:1024]), text[:80]
                assert await ann.nothing_came()
        assert await bystander.nothing_came()
        assert await server.metric('errors_total{code="too_deep"}') == 2


async def test_an_error_carries_the_mark_of_its_request() -> None:
    async with Server() as server, Client(server.url) as ann:
        error = await ann.ask({"type": "subscribe"})
        assert error["code"] == "missing_field"


async def test_a_name_of_255_characters_of_any_script_is_a_name() -> None:
    async with Server() as server, Client(server.url) as ann:
        reply = await ann.subscribe("é" * 255, "名" * 255)
        assert (reply["channel"], reply["subId"]) == ("é" * 255, "名" * 255)


async def test_binary_frames_are_errors_even_empty_ones() -> None:
    async with Server() as server, Client(server.url) as ann:
        for data in (b'{"type":"getInfo"}', b"", b"\xff\xfe"):
            await ann.send(data)
            error = await ann.receive()
            assert (error["code"], error["temporary"]) == ("binary_frame", False)
        assert await ann.nothing_came()


def message_of(size: int, character: str = "x") -> str:
    """A message of exactly this many bytes."""
    empty = '{"type":"getInfo","payload":""}'
    width = len(character.encode())
    room = size - len(empty)
    return empty.replace('""', '"' + character * (room // width) + "x" * (room % width) + '"')


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("character", ["x", "é", "名"])
async def test_the_largest_message_is_counted_in_bytes_after_decompression(
    compression: str | None, character: str
) -> None:
    async with Server(CLOUD_SOCKETS_MAX_PAYLOAD="1000") as server:
        async with Client(server.url, compression=compression) as ann:
            await ann.send(message_of(1000, character))
            assert (await ann.receive())["type"] == "getInfo"
            await ann.send(message_of(1001, character))
            code, before = await ann.closed()
            assert (code, before) == (1009, [])


async def test_a_message_in_pieces_counts_as_a_whole() -> None:
    async with Server(CLOUD_SOCKETS_MAX_PAYLOAD="1000") as server, Client(server.url) as ann:
        text = message_of(1000)
        await ann.socket.send([text[:300], text[300:600], text[600:]])
        assert (await ann.receive())["type"] == "getInfo"
        text = message_of(1001)
        await ann.socket.send([text[:300], text[300:600], text[600:]])
        assert (await ann.closed())[0] == 1009


async def test_a_huge_message_is_not_kept_while_it_comes() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bystander:

        async def flood() -> None:
            while True:
                await ann.socket.send("x" * 1_000_000)
                await asyncio.sleep(0)  # a send that the kernel takes at once lets nothing be received

        with pytest.raises(ConnectionClosed):
            await soon(flood())
        assert (await ann.closed())[0] == 1009
        assert await bystander.nothing_came()
        assert await server.metric('connections_closed_total{code="0"}') == 1


async def test_invalid_utf8_is_answered_with_its_close_code() -> None:
    async with Server() as server, Client(server.url) as ann:
        frame = Frame(Opcode.TEXT, b'{"type":"\xff"}').serialize(mask=True)
        ann.socket.transport.write(frame)
        assert (await ann.closed())[0] == 1007


async def test_a_frame_against_the_protocol_is_answered_with_its_close_code() -> None:
    async with Server() as server, Client(server.url) as ann:
        ann.socket.transport.write(struct.pack("!BB", 0b1000_1111, 0x80) + b"\0\0\0\0")  # an opcode that there is not
        assert (await ann.closed())[0] == 1002


async def test_a_client_that_makes_more_than_fifty_errors_in_ten_seconds_is_told_to_stay_away() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as patient:
        for _ in range(50):
            await patient.send("nonsense")
        assert {error["code"] for error in await patient.collect(50)} == {"invalid_json"}
        assert await patient.nothing_came()
        for _ in range(80):
            await ann.send("nonsense")
        code, before = await ann.closed()
        assert code == 3501
        *errors, farewell = before
        assert [error["type"] for error in errors] == ["error"] * 51
        assert (farewell["type"], farewell["code"], farewell["reconnect"]) == ("disconnect", 3501, False)


async def test_being_told_that_a_user_is_away_is_no_fault() -> None:
    async with Server() as server, Client(server.url) as ann:
        for _ in range(60):
            await ann.send({"type": "notification", "userTag": "away"})
        assert {error["code"] for error in await ann.collect(60)} == {"user_offline"}
        assert await ann.nothing_came()


async def test_a_connection_has_a_limited_number_of_subscriptions() -> None:
    async with Server(CLOUD_SOCKETS_MAX_SUBSCRIPTIONS="3") as server, Client(server.url) as ann:
        for number in range(3):
            await ann.subscribe("news", str(number))
        error = await ann.ask({"type": "subscribe", "channel": "news", "subId": "one more"})
        assert (error["code"], "at most 3" in error["value"]) == ("too_many_subscriptions", True)
        await ann.subscribe("news", "1")
        await ann.ask({"type": "unsubscribe", "channel": "news", "subId": "1"})
        await ann.subscribe("news", "one more")


async def ended_as_slow(server: Server) -> None:
    async def counted() -> bool:
        return await server.metric('connections_closed_total{code="3008"}') == 1

    await until(counted)


async def test_a_client_that_does_not_read_is_ended_and_the_others_go_on() -> None:
    async with Server(CLOUD_SOCKETS_MAX_BUFFERED="1000000") as server, Client(server.url) as ann:
        async with Client(server.url, narrow=True) as slow, Client(server.url) as bob:
            await slow.subscribe("news")
            await bob.subscribe("news")
            slow.socket.transport.pause_reading()
            for number in range(100):
                await ann.ask({"type": "announce", "channel": "news", "payload": [number, "x" * 100_000]})
                assert (await bob.receive())["payload"][0] == number
            await ended_as_slow(server)
            assert await server.metric("buffered_bytes") == 0


async def test_over_the_budget_of_all_the_slowest_goes_first() -> None:
    async with Server(CLOUD_SOCKETS_MAX_BUFFERED_TOTAL="1500000", CLOUD_SOCKETS_MAX_BUFFERED="100000000") as server:
        async with Client(server.url) as ann, Client(server.url, narrow=True) as slow, Client(server.url) as bob:
            await slow.subscribe("news")
            await bob.subscribe("news")
            slow.socket.transport.pause_reading()
            for number in range(100):
                await ann.ask({"type": "announce", "channel": "news", "payload": [number, "x" * 100_000]})
                assert (await bob.receive())["payload"][0] == number
            await ended_as_slow(server)


async def test_a_client_that_floods_is_read_no_faster_than_it_is_served() -> None:
    async with Server(CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS="tests.support.handlers:HANDLERS") as server:
        async with Client(server.url) as ann:
            await ann.send({"type": "callSlow", "payload": 5})
            assert (await ann.receive())["type"] == "began"

            async def flood() -> None:
                while True:
                    await ann.socket.send('{"type":"broadcast","payload":"' + "x" * 100_000 + '"}')

            # Sending comes to a halt: what is sent stays with the client, not in the service's memory.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(flood(), 1.5)
            assert await server.metric("messages_received_total") == 1


MARKED: list[tuple[str, str]] = [
    ('{"type":"announce","a":1,"a":2,"ackId":"m"}', "duplicate_key"),
    ('{"type":"announce","\\u0061":"\\ud83d","a":2,"ackId":"m"}', "duplicate_key"),
    ('{"type":"announce","payload":' + "[" * 128 + "]" * 128 + ',"ackId":"m","own":1}', "too_deep"),
    ('{"type":"announce","ackId":"m","payload":' + "[" * 50_000 + "]" * 50_000 + ',"own":1}', "too_deep"),
    ('{"type":"announce","payload":' + "[" * 50_000 + "]" * 50_000 + ', "ackId" : "m" }', "too_deep"),
    ('{"ackId":"m"}', "missing_field"),
    ('{"type":"announce","subId":"a","ackId":"m"}', "missing_field"),
    ('{"type":"subscribe","channel":"a","ackId":"m"}', "missing_field"),
    ('{"type":"subscribe","channel":"a","subId":"b","position":1,"ackId":"m"}', "invalid_field"),
    ('{"type":"\\ud83d","ackId":"m"}', "invalid_field"),
    *[
        (f'{{"type":"announce","{field}":"a\\udE00","ackId":"m"}}', "invalid_field")
        for field in ("channel", "userTag", "id")
    ],
    ('{"type":"announce","channel":"a","subId":"\\ud83d\\ud83d\\ude00","ackId":"m"}', "invalid_field"),
    ('{"type":"announce",' + ",".join(f'"{number}":1' for number in range(1100)) + ',"ackId":"m"}', "invalid_field"),
    ('{"type":"cloud-sockets.logout","ackId":"m"}', "reserved_type"),
    ('{"type":"surprise","ackId":"m"}', "unsupported_type"),
    ('{"type":"notification","userTag":"nobody","ackId":"m"}', "user_offline"),
]


@pytest.mark.parametrize("over_http", [False, True])
async def test_every_error_that_can_be_told_apart_carries_the_mark_of_its_request(*, over_http: bool) -> None:
    async with Server() as server, Client(server.url) as ann:
        for text, code in MARKED:
            if over_http:
                if '"subscribe"' in text or "surprise" in text:
                    continue  # of these HTTP takes none as a command, and any as an announce
                error = (await server.post("/api/messages", text.encode())).json
            else:
                await ann.send(text)
                error = await ann.receive()
            assert (error["code"], error.get("ackId")) == (code, "m"), text[:80]


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"announce","ackId":"m"',
        '{"type":"announce","ackId":1,"ackId":2}',
        '{"type":"announce","ackId":"\\ud83d"}',
        '{"type":"announce","ackId":"' + "m" * 256 + '"}',
        '{"payload":' + "[" * 5000 + "]" * 5000 + ',"own":{"ackId":"m"}}',
    ],
)
async def test_no_mark_is_made_up(text: str) -> None:
    """An answer has no mark where the request's cannot be told, or is none."""
    async with Server() as server, Client(server.url) as ann:
        await ann.send(text)
        error = await ann.receive()
        assert error["type"] == "error"
        assert "ackId" not in error


async def test_a_binary_frame_that_has_a_mark_is_answered_with_it() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.send(b'{"type":"getInfo","ackId":3}')
        error = await ann.receive()
        assert (error["code"], error["ackId"]) == ("binary_frame", 3)
