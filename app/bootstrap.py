"""The composition root: what an instance is made of, and the only place that says "Pub/Sub or embedded"."""

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from quart import Quart, Websocket, session

from app.addresses import is_loopback_host
from app.auth.api_keys import ApiKeys
from app.auth.origins import OriginRule
from app.auth.session import user_of
from app.clock import Clock
from app.core.router import Rules
from app.core.users import UserError
from app.fanout import PROCESS_LENGTH, Fanout
from app.fanout.embedded import Bus, EmbeddedFanout
from app.handlers import Handler, Handlers
from app.hub import Hub, Identity, Limits
from app.journal import HistoryLimits
from app.metrics import Metrics
from app.protocol import messages
from app.protocol.messages import NAME_RULE, is_name
from app.sending import SendToEach, one_by_one
from app.settings import Settings, SettingsError, describe
from app.web import create_quart
from app.web.door import Door, Guest, Refused, Undecided
from app.web.session_cookies import signed_at

if TYPE_CHECKING:
    from app.fanout.pubsub import TopicName
    from app.fanout.pubsub.census import Census

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    *,
    fanout: Fanout | None = None,
    clock: Clock | None = None,
    send_to_each: SendToEach = one_by_one,
    loopback_names_only: bool = False,
) -> Quart:
    """A Quart app with its hub in `app.extensions["cloud_sockets"]`.

    `fanout` and `clock` replace what the settings say and the real time, for tests; `send_to_each` is how many sockets
    are written to at once. With `loopback_names_only` a Host header that names anything else is answered 421, as by
    `python -m app` where it listens on loopback alone. Raises SettingsError for what does not fit together,
    FanoutStartError where the fan-out cannot be made.
    """
    if problems := dict(settings.problems()):
        raise SettingsError([describe(field, getattr(settings, field), allowed) for field, allowed in problems.items()])
    clock = clock or Clock()
    metrics = Metrics()
    metrics.sends_to_many.set(send_to_each is not one_by_one)
    instance_id = f"{clock.chance.getrandbits(48):012x}"
    process = f"{clock.chance.getrandbits(4 * PROCESS_LENGTH):0{PROCESS_LENGTH}x}"
    handlers = _load_handlers(settings)
    hub = Hub(
        identity=Identity(instance_id, settings.k_revision, process),
        rules=Rules(
            ack_types=frozenset(settings.ack_message_types),
            broadcast_types=frozenset(settings.broadcast_message_types) - {messages.BROADCAST},
            pubsub_types=settings.shared_types,
            custom_types=frozenset(handlers),
        ),
        limits=Limits(
            max_payload=settings.max_payload,
            max_connections=settings.max_connections,
            max_subscriptions=settings.max_subscriptions,
            publish_backlog=settings.publish_backlog,
            max_buffered=settings.max_buffered,
            max_buffered_total=settings.max_buffered_total,
            resend_delay=settings.msg_resend_delay / 1000,
            resend_timeout=settings.msg_resend_timeout / 1000,
            history=HistoryLimits(
                size=settings.history_size,
                ttl=settings.history_ttl,
                max_bytes=settings.history_bytes,
                delivery_skew=settings.delivery_skew,
            ),
            max_awaiting_bytes=settings.max_awaiting_bytes,
            max_subscription_bytes=settings.max_subscription_bytes,
            message_rate=settings.message_rate,
            byte_rate=settings.byte_rate,
            max_age=settings.max_age,
            request_timeout=settings.request_timeout,
            rollover=settings.rollover,
        ),
        include_user_props=settings.include_user_props,
        fanout=fanout or _make_fanout(settings, instance_id, process, metrics, clock),
        handlers=Handlers(handlers, metrics, max_bytes=settings.max_unfinished_bytes // 2),
        metrics=metrics,
        clock=clock,
        options=_shown_options(settings, handlers),
        custom_pubsub=settings.pubsub_provider is not None,
        shows_channels=settings.auth_mode == "anonymous" and not settings.on_cloud_run,
        send_to_each=send_to_each,
    )
    return create_quart(
        hub,
        _make_door(settings, clock, is_loopback_host if loopback_names_only else None),
        path=settings.path,
        max_payload=settings.max_payload,
        secret_key=None if settings.secret_key is None else settings.secret_key.get_secret_value(),
        session_lifetime=settings.session_lifetime,
    )


def _shown_options(settings: Settings, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    """What getInfo tells of the configuration: nothing but how messages are handled."""
    return {
        "ackMessageTypes": list(settings.ack_message_types),
        "broadcastMessageTypes": list(settings.broadcast_message_types),
        "customMsgHandlers": list(handlers),
        "msgResendDelay": settings.msg_resend_delay,
        "pubsubMessageTypes": sorted(settings.shared_types),
    }


# What the user wrote


def _load(field: str, reference: str) -> Any:
    """The object that `package.module:name` means. Raises SettingsError."""
    module_name, _, name = reference.partition(":")
    try:
        found = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module raises when it is imported
        raise _bad(
            field, reference, f"package.module:name that can be imported ({type(error).__name__}: {error})"
        ) from error
    return found


def _bad(field: str, value: object, allowed: str) -> SettingsError:
    return SettingsError([describe(field, value, allowed)])


def _load_handlers(settings: Settings) -> dict[str, Handler]:
    field, reference = "custom_msg_handlers", settings.custom_msg_handlers
    if reference is None:
        return {}
    found = _load(field, reference)
    if not isinstance(found, Mapping):
        raise _bad(field, reference, "a mapping of message type -> handler")
    taken = {*settings.broadcast_message_types, *settings.shared_types}
    for kind, handler in found.items():
        if not is_name(kind) or kind.startswith(messages.OWN_PREFIX):
            raise _bad(field, reference, f"types that are {NAME_RULE}; {kind!r} is not")
        if kind in messages.BUILT_IN - {messages.PING}:  # which clients may say, for what only the service means
            raise _bad(field, reference, f"types that are not built in; {kind!r} is")
        if kind in taken:
            raise _bad(field, reference, f"types in no other list; {kind!r} is a broadcast or Pub/Sub type too")
        if not callable(handler):
            raise _bad(
                field, reference, f"functions (connection, message, director); that of {kind!r} cannot be called"
            )
    return dict(found)


# The fan-out


def _make_fanout(settings: Settings, instance_id: str, process: str, metrics: Metrics, clock: Clock) -> Fanout:
    if settings.pubsub_provider is not None:
        return _make_provider(settings, instance_id)
    if settings.pubsub_topic_name is not None:
        return _make_pubsub(settings, settings.pubsub_topic_name, instance_id, process, metrics, clock)
    return EmbeddedFanout(Bus(instance_id))


def _make_provider(settings: Settings, instance_id: str) -> Fanout:
    """Call the user's factory with what it has parameters for, out of `topic`, `subscription` and `instance_id`."""
    field, reference = "pubsub_provider", settings.pubsub_provider or ""
    factory = _load(field, reference)
    if not callable(factory):
        raise _bad(field, reference, "a function that makes a fan-out")
    offered = {
        "topic": settings.pubsub_topic_name,
        "subscription": settings.pubsub_subscription_name,
        "instance_id": instance_id,
    }
    wanted = inspect.signature(factory).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.values())
    if settings.pubsub_topic_name is not None and "topic" not in wanted and not takes_all:
        raise _bad("pubsub_topic_name", settings.pubsub_topic_name, f"unset with {reference}, which takes no `topic`")
    try:
        made = factory(**{name: value for name, value in offered.items() if takes_all or name in wanted})
    except Exception as error:
        raise _bad(field, reference, f"a factory that works ({type(error).__name__}: {error})") from error
    if not isinstance(made, Fanout):
        raise _bad(field, reference, f"a function that makes an app.fanout.Fanout; it made {type(made).__name__}")
    return made


def _make_pubsub(
    settings: Settings, topic: str, instance_id: str, process: str, metrics: Metrics, clock: Clock
) -> Fanout:
    from app.fanout import pubsub  # noqa: PLC0415  # not before it is needed: it takes a second of CPU to import

    name = _topic_name(settings, topic)
    return pubsub.PubSubFanout(
        pubsub.connect(name, emulator=settings.pubsub_emulator_host, endpoint=settings.pubsub_endpoint),
        metrics,
        prefix=settings.pubsub_subscription_name or name.topic,
        instance_id=instance_id,
        labels={
            "service": settings.k_service or "local",
            "revision": settings.k_revision or "local",
            "instance": instance_id,
        },
        now_ns=clock.unix_ns,
        chance=clock.chance,
        history_ttl=settings.history_ttl if settings.keeps_history else 0,
        skew=settings.delivery_skew,
        revision=settings.k_revision,
        orphan_grace=settings.orphan_grace,
        process=process,
    )


def make_census(settings: Settings) -> "Census":
    """What looks after the topic's subscriptions by hand. Raises SettingsError without a topic."""
    from app.fanout import pubsub  # noqa: PLC0415  # as above
    from app.fanout.pubsub.census import Census  # noqa: PLC0415

    if settings.pubsub_topic_name is None:
        raise _bad("pubsub_topic_name", None, "the topic whose subscriptions are meant")
    name = _topic_name(settings, settings.pubsub_topic_name)
    client = pubsub.connect(name, emulator=settings.pubsub_emulator_host, endpoint=settings.pubsub_endpoint)
    return Census(client, prefix=settings.pubsub_subscription_name or name.topic)


def _topic_name(settings: Settings, topic: str) -> "TopicName":
    from app.fanout import pubsub  # noqa: PLC0415  # as above

    if topic.startswith("projects/"):
        _, project, _, topic = topic.split("/")
    else:
        found = settings.google_cloud_project or pubsub.default_project()
        if found is None:
            raise _bad("google_cloud_project", None, "the topic's project; neither this nor google-auth knows it")
        project = found
    return pubsub.TopicName(project, topic)


# The door


def _make_door(settings: Settings, clock: Clock, takes_host: Callable[[str], bool] | None) -> Door:
    local = settings.auth_mode == "anonymous" and not settings.on_cloud_run
    keys = ApiKeys([key.get_secret_value() for key in settings.api_keys], open_without=not settings.on_cloud_run)
    return Door(
        origins=OriginRule(settings.allowed_origins, local=local),
        takes_host=takes_host,
        identify=None if settings.auth_mode == "anonymous" else _session_reader(settings, clock),
        check_key=lambda authorization: keys.access(authorization).value,
        has_keys=bool(settings.api_keys),
        metrics_open_to_loopback=settings.on_cloud_run,
    )


def _signed_cookie(_upgrade: Websocket) -> Any:
    return cast("Any", session)._get_current_object()  # noqa: SLF001  # Quart has read it for this upgrade


def _session_reader(settings: Settings, clock: Clock) -> Callable[[Websocket], Any]:
    parser = _signed_cookie if settings.session_parser is None else _load("session_parser", settings.session_parser)
    if not callable(parser):
        raise _bad("session_parser", settings.session_parser, "a function(websocket) -> session")

    async def identify(upgrade: Websocket) -> Guest:
        try:
            found = parser(upgrade)
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:
            logger.exception("the session parser failed")
            raise Undecided("the session parser failed") from error
        try:
            identified = user_of(found, settings.session_user_property_name, settings.include_user_props)
        except UserError as error:
            raise Refused(str(error)) from None
        now = clock.unix_ns() / 1e9
        began = signed_at(found)
        # Only its parser knows how long a session of another kind lasts: it is asked again after so long.
        ends_at = (now if began is None else began) + settings.session_lifetime
        if ends_at <= now:
            raise Refused("the session has ended")
        return Guest(identified.user, identified.session_user, ends_at)

    return identify
