"""Handlers that users write, and the in-process API within their reach."""

import json

import pytest

from tests.support.client import Client
from tests.support.process import Server

HANDLERS = {"CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS": "tests.support.handlers:HANDLERS"}


@pytest.mark.parametrize("kind", ["callEcho", "callLambda"])
async def test_a_handler_gets_the_connection_the_message_and_the_director(kind: str) -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        await ann.send({"type": kind, "payload": {"n": [1, "é"]}})
        assert (await ann.receive())["payload"] == {"n": [1, "é"]}
        assert await ann.nothing_came()


async def test_with_a_mark_success_is_answered() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        await ann.send({"type": "callEcho", "payload": 1, "ackId": "m", "id": "i"})
        assert (await ann.receive())["type"] == "echo"
        reply = await ann.receive()
        assert (reply["type"], reply["ackId"], reply["id"]) == ("ack", "m", "i")


async def test_a_plain_function_runs_in_a_worker_thread_and_may_use_the_director() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await ann.send({"type": "callPlain", "channel": "news", "payload": 7})
        note = await bob.receive()
        assert (note["type"], note["payload"], note["inWorker"]) == ("note", 7, True)
        assert (await ann.receive())["payload"] == note["id"]


async def test_the_directors_eight_methods_work_on_the_event_loop() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        await ann.send({"type": "callEverything", "ackId": "outer"})
        messages = await ann.collect(11)
        answers = ["ack", *["announce"] * 3, "formatted", "infos", "getInfo", "getInfoDetail", *["ack"] * 3]
        assert [message["type"] for message in messages] == answers
        texts = [message.get("payload") for message in messages[1:4]]
        assert texts == ["to a subscription", "to a channel", "to all"]
        formatted = json.loads(messages[4]["payload"])
        assert (formatted["type"], formatted["payload"]) == ("x", [1])
        assert formatted["id"]
        assert formatted["sentDateTime"]
        info, detail = messages[5]["payload"]
        assert info["connectionInfo"] == {"totalConnections": 1}
        assert detail["channelInfo"]["channels"] == {"made": [{"subId": "by-handler", "numConnections": 1}]}
        assert (messages[8]["ackId"], messages[8]["channel"]) == ("inner", "handled")
        assert messages[9]["channelsDeleted"] == 1
        assert messages[10]["ackId"] == "outer"


async def test_and_from_a_worker_thread() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        await ann.send({"type": "callEverythingPlain", "ackId": "outer"})
        messages = await ann.collect(7)
        expected = ["ack", "announce", "getInfo", "formatted", "infos", "ack", "ack"]
        assert [message["type"] for message in messages] == expected
        assert messages[-1]["ackId"] == "outer"


@pytest.mark.parametrize("kind", ["callFails", "callFailsPlain"])
async def test_a_handler_that_fails_is_logged_and_its_words_are_not_shown(kind: str) -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        error = await ann.ask({"type": kind})
        assert (error["type"], error["code"], error["temporary"]) == ("error", "handler_failed", False)
        assert "1234" not in json.dumps(error)
        assert await ann.nothing_came()
        await server.logged("the password is 1234")


async def test_one_message_of_a_connection_is_handled_at_a_time_and_others_do_not_wait() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann, Client(server.url) as bob:
        await ann.send({"type": "callSlow", "payload": 0.3})
        assert (await ann.receive())["type"] == "began"
        await ann.send({"type": "callSlow", "payload": 0})
        assert await bob.nothing_came()
        order = [(message["type"], message["payload"]) for message in await ann.collect(3)]
        assert order == [("ended", 0.3), ("began", 0), ("ended", 0)]


async def test_a_handler_that_hangs_does_not_keep_the_service_from_ending() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        await ann.send({"type": "callHangs"})
        assert (await ann.receive())["type"] == "hanging"
        server.terminate()
        assert await server.wait(9) == 0


async def test_emit_reaches_subscribers_of_any_type_its_own_sender_too() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann, Client(server.url) as bob:
        await ann.subscribe("todoList", "todo1")
        await bob.subscribe("todoList", "todo2")
        await ann.ask({"type": "getInfo"})
        for kind in ("callEmit", "callEmitThreadsafe"):
            await ann.send({"type": kind, "payload": ["todoList", "todo1", "announce", {"subject": "New todo"}]})
            await ann.send({"type": kind, "payload": ["todoList", None, "anything", [1]]})
            await ann.send({"type": kind, "payload": [None, None, "broadcast", "all"]})
            assert [message["type"] for message in await ann.collect(3)] == ["announce", "anything", "broadcast"]
            assert [message["type"] for message in await bob.collect(2)] == ["anything", "broadcast"]


async def test_a_command_cannot_be_emitted() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        error = await ann.ask({"type": "callEmit", "payload": ["c", "s", "subscribe", None]})
        assert error["code"] == "handler_failed"
        await server.logged("cannot be published")


async def test_what_the_seed_hangs_on_a_request_is_within_reach() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann:
        await ann.subscribe("news")
        await ann.send({"type": "callReach"})
        assert (await ann.receive())["payload"] == [True, True, ["news"]]


async def test_two_clients_messages_of_one_id_that_a_handler_passes_on_both_arrive() -> None:
    async with Server(**HANDLERS) as server, Client(server.url) as ann, Client(server.url) as eve:
        async with Client(server.url) as bob:
            await bob.subscribe("news")
            for client in (ann, eve):
                await client.ask({"type": "callRelay", "id": "1"})
            expected = [ann.welcome["connectionId"], eve.welcome["connectionId"]]
            assert [message["payload"] for message in await bob.collect(2)] == expected


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("tests.support.handlers:OVER_A_BUILT_IN", "'announce'"),
        ("tests.support.handlers:OVER_A_SHARED", "'todo'"),
        ("tests.support.handlers:NOT_CALLABLE", "'x'"),
        ("tests.support.handlers:NOT_A_MAPPING", "a mapping"),
        ("tests.support.handlers:nothing", "AttributeError"),
        ("tests.no_such_module:HANDLERS", "ModuleNotFoundError"),
    ],
)
async def test_handlers_that_cannot_be_are_refused_at_the_start(reference: str, words: str) -> None:
    server = Server(CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS=reference, CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES="todo")
    await server.start()
    assert await server.wait() == 2
    assert "CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS" in server.log
    assert reference in server.log
    assert words in server.log
    assert "Traceback" not in server.log


async def test_half_a_surrogate_pair_of_a_handler_travels_as_an_escape() -> None:
    """A string that slicing cut within an emoji has no UTF-8, and is JSON all the same."""
    async with Server(**HANDLERS) as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await ann.send('{"type":"callHalves","payload":{"half":"\\uD83D"},"ackId":1}')
        assert '"payload":{"\\ud83d":["\\ud83d"]},"\\ud83d":1,' in await ann.receive_text()
        formatted = await ann.receive()
        assert json.loads(formatted["payload"])["a"] == "\ud83d"
        refused = await ann.receive()
        assert (refused["code"], refused["ackId"], refused["msg"]["channel"]) == ("invalid_field", 5, "\ud83d")
        assert (await ann.receive())["ackId"] == 1
        texts = [await bob.receive_text() for _ in range(4)]
        for text, written in zip(
            texts, ['"payload":"\\ud83d"', '"payload":["\\ud83d"]', *['"own":"\\ud83d"'] * 2], strict=True
        ):
            assert written in text
