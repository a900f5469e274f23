"""A fan-out of a third party between processes."""

from tests.support.cluster import clients
from tests.support.process import Server
from tests.support.relay import relay

PROVIDER = {"CLOUD_SOCKETS_PUBSUB_PROVIDER": "tests.support.relay:make"}


async def test_a_providers_thirty_lines_connect_two_instances() -> None:
    async with relay() as address:
        async with Server(**PROVIDER, RELAY=address) as one, Server(**PROVIDER, RELAY=address) as two:
            async with clients([one, two]) as (ann, bob):
                await ann.subscribe("news")
                await bob.subscribe("news")
                reply = await ann.ask({"type": "announce", "channel": "news", "payload": 1})
                assert reply["type"] == "ack"
                message = await bob.receive()
                assert (message["payload"], bool(message["pubsubId"])) == (1, True)
                assert await ann.nothing_came()
                info = await ann.ask({"type": "getInfo"})
                assert info["serverInfo"]["customPubSub"] is True


async def refusal(**variables: str) -> str:
    server = Server(**variables)
    await server.start()
    assert await server.wait() == 2
    assert "Traceback" not in server.log
    return server.log


async def test_a_provider_that_takes_no_topic_cannot_have_one() -> None:
    log = await refusal(**PROVIDER, CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="news")
    assert "CLOUD_SOCKETS_PUBSUB_TOPIC_NAME is 'news'" in log
    assert "takes no `topic`" in log


async def test_a_provider_that_is_none_is_refused() -> None:
    assert "made NoneType" in await refusal(CLOUD_SOCKETS_PUBSUB_PROVIDER="tests.support.providers:makes_nothing")
    assert "AttributeError" in await refusal(CLOUD_SOCKETS_PUBSUB_PROVIDER="tests.support.providers:missing")
    assert "no server" in await refusal(CLOUD_SOCKETS_PUBSUB_PROVIDER="tests.support.providers:fails")


async def test_a_provider_is_handed_what_it_has_parameters_for() -> None:
    async with Server(
        CLOUD_SOCKETS_PUBSUB_PROVIDER="tests.support.providers:curious",
        CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="news",
        CLOUD_SOCKETS_PUBSUB_SUBSCRIPTION_NAME="prefix",
    ) as server:
        await server.logged("a provider for news, prefix")
