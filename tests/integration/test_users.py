"""Users: who they are is read from the session of the app that logged them in."""

import asyncio
from typing import Any

import pytest
from quart import Quart, request, session
from websockets.exceptions import InvalidStatus

from tests.support.client import Client
from tests.support.process import Server

pytestmark = pytest.mark.usefixtures("both_ways")

SECRET = "the same in both apps"
SESSION = {"CLOUD_SOCKETS_AUTH": "session", "SECRET_KEY": SECRET}


# A login as any Flask or Quart app has it; with Flask it reads the same.
login_app = Quart("login")
login_app.secret_key = SECRET


@login_app.post("/login")
async def login() -> str:
    form = await request.get_json()
    session["user"] = form
    return "welcome"


async def cookie_for(user: Any) -> dict[str, str]:
    """Log in, and answer the headers that carry the session from then on."""
    answer = await login_app.test_client().post("/login", json=user)
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


def client_of(server: Server, headers: dict[str, str]) -> Client:
    return Client(server.url, additional_headers=headers)


async def refused(server: Server, headers: dict[str, str]) -> int:
    with pytest.raises(InvalidStatus) as answer:
        async with client_of(server, headers):
            pass
    return answer.value.response.status_code


async def test_a_user_is_welcomed_by_name_and_counted_once() -> None:
    async with Server(**SESSION) as server:
        headers = await cookie_for("ann")
        async with client_of(server, headers), client_of(server, headers) as second:
            assert second.welcome["message"] == "Welcome ann to the cloud-sockets WebSocket"
            assert (second.welcome["numConnections"], second.welcome["numUsers"]) == (2, 1)
            detail = await second.ask({"type": "getInfoDetail"})
            assert (detail["uniqUserNameCount"], detail["uniqUserNames"]) == (1, ["ann"])


async def test_a_flask_app_issues_the_same_session() -> None:
    from flask import Flask
    from flask import session as flask_session

    flask_app = Flask("login")
    flask_app.secret_key = SECRET

    @flask_app.post("/login")
    def flask_login() -> str:
        flask_session["user"] = "bob"
        return "welcome"

    answer = flask_app.test_client().post("/login")
    cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    async with Server(**SESSION) as server, client_of(server, cookie) as bob:
        assert bob.welcome["message"].startswith("Welcome bob to")


async def test_without_a_user_the_upgrade_is_refused() -> None:
    async with Server(**SESSION) as server:
        assert await refused(server, {}) == 401
        assert await refused(server, {"Cookie": "session=forged"}) == 401
        forged = Quart("other")
        forged.secret_key = "another"
        assert await server.metric('connections_refused_total{reason="unauthenticated"}') == 2
        assert await server.metric("connections_opened_total") == 0


async def test_a_user_object_is_refused_until_it_is_said_what_identifies_it() -> None:
    headers = await cookie_for({"id": 7, "mail": "a@b.c"})
    async with Server(**SESSION) as server:
        assert await refused(server, headers) == 401
        await server.logged("CLOUD_SOCKETS_INCLUDE_USER_PROPS")
    async with Server(**SESSION, CLOUD_SOCKETS_INCLUDE_USER_PROPS="id,mail") as server:
        async with client_of(server, headers) as ann:
            assert ann.welcome["message"] == "Welcome 7 to the cloud-sockets WebSocket"


async def test_a_notification_reaches_every_connection_of_a_user_by_any_of_its_tags() -> None:
    async with Server(
        CLOUD_SOCKETS_SETUP_HTTP_USER="true", SECRET_KEY=SECRET, CLOUD_SOCKETS_INCLUDE_USER_PROPS="id,mail"
    ) as server:
        ann = await cookie_for({"id": 7, "mail": "a@b.c"})
        bob = await cookie_for({"id": 8, "mail": "b@b.c"})
        async with client_of(server, ann) as one, client_of(server, ann) as two, client_of(server, bob) as sender:
            for tag in ("7", "id:7", "mail:a@b.c"):
                reply = await sender.ask({"type": "notification", "userTag": tag, "payload": "psst"})
                assert reply["type"] == "ack"
                for client in (one, two):
                    message = await client.receive()
                    assert (message["type"], message["userTag"], message["payload"]) == ("notification", tag, "psst")
            for client in (one, two, sender):
                assert await client.nothing_came()


async def test_a_user_who_is_not_there_is_told_of() -> None:
    async with Server(**SESSION) as server, client_of(server, await cookie_for("ann")) as ann:
        for tag in ("nobody", "mail:ann"):
            error = await ann.ask({"type": "notification", "userTag": tag})
            assert (error["type"], error["code"]) == ("error", "user_offline")
            assert error["value"] == f"User with user tag {tag} is not online"
            assert error["msg"]["userTag"] == tag


async def test_the_user_may_be_anywhere_in_any_session() -> None:
    async with Server(
        CLOUD_SOCKETS_AUTH="session",
        CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:from_header",
        CLOUD_SOCKETS_SESSION_USER_PROPERTY_NAME="account",
    ) as server:
        async with client_of(server, {"X-Account": "carol"}) as carol:
            assert carol.welcome["message"].startswith("Welcome carol to")
        assert await refused(server, {}) == 401


@pytest.mark.parametrize("parser", ["from_header_async", "fails"])
async def test_a_parser_may_wait_and_may_fail(parser: str) -> None:
    async with Server(
        CLOUD_SOCKETS_AUTH="session", CLOUD_SOCKETS_SESSION_PARSER=f"tests.support.sessions:{parser}"
    ) as server:
        if parser == "fails":
            assert await refused(server, {}) == 401
            await server.logged("the session parser failed")
        else:
            async with client_of(server, {"X-User": "dave"}) as dave:
                assert dave.welcome["message"].startswith("Welcome dave to")


async def test_logout_closes_all_sockets_of_a_user_and_no_other() -> None:
    async with Server(**SESSION, CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS="tests.support.handlers:HANDLERS") as server:
        ann, bob = await cookie_for("ann"), await cookie_for("bob")
        async with client_of(server, ann) as one, client_of(server, ann) as two, client_of(server, bob) as other:
            await other.send({"type": "callLogout", "payload": "ann"})
            for code, before in await asyncio.gather(one.closed(), two.closed()):
                assert code == 3503
                farewell = before[-1]
                assert (farewell["type"], farewell["code"], farewell["reconnect"]) == ("disconnect", 3503, False)
            assert await other.nothing_came()
