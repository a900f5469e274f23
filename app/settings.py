"""Every variable of the environment: its name, type, default, what is allowed, and what it is for."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from app.addresses import ALL, LOOPBACK, Address, is_loopback_address, listening_on, origin_pattern
from app.protocol import messages
from app.protocol.messages import NAME_RULE, is_name

PREFIX = "CLOUD_SOCKETS_"
MEGABYTE = 1024 * 1024
LEAST_GRACE = 900
"""Seconds: Cloud Run keeps an idle instance for 15 minutes, and gives it no CPU where it is billed by request."""

Problem = tuple[str, str]
"""A field's name, and what is allowed in it."""


class SettingsError(Exception):
    """Bad configuration; `lines` has one for each bad variable: its name, its value, and what is allowed."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]
Types = CommaSeparated
Text = Annotated[str | None, Field(min_length=1)]
Import = Annotated[str | None, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]

TYPES = "message types, separated by commas"
IMPORT = "package.module:name"


def variable(default: Any, text: str, allowed: str, **limits: Any) -> Any:
    """One variable: its default, its sentence, and what is allowed in it."""
    return Field(default=default, description=text, json_schema_extra={"allowed": allowed}, **limits)


def number(default: int, text: str, unit: str, *, least: int = 1, most: int = 2**31 - 1) -> Any:
    """A variable that is a whole number."""
    return variable(default, text, f"a whole number of {unit} from {least} to {most}", ge=least, le=most)


def optional_number(text: str, unit: str, *, least: int = 1, most: int = 2**31 - 1) -> Any:
    """The same, unset by default."""
    return variable(None, text, f"a whole number of {unit} from {least} to {most}", ge=least, le=most)


class Settings(BaseModel):
    """What an instance is told at its start.

    `Settings.from_environment` reads it; whoever embeds the service may write `Settings(auth="anonymous", ...)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The seed's options
    ack_message_types: Types = variable((), "Types that each receiver must acknowledge", TYPES)
    broadcast_message_types: Types = variable((), "Types that go to all connections, as `broadcast` does", TYPES)
    custom_msg_handlers: Import = variable(None, "A mapping of type -> handler(connection, message, director)", IMPORT)
    msg_resend_delay: int = number(
        60_000, "How long to wait for an acknowledgement before sending again", "milliseconds"
    )
    msg_resend_timeout: int = number(600_000, "After this a message is given up, counted and logged", "milliseconds")
    pubsub_message_types: Types | None = variable(
        None,
        "Types that reach all instances, and are kept for clients that come back; unset: "
        "`announce,broadcast,notification`",
        TYPES,
    )
    pubsub_topic_name: Text = variable(
        None,
        "The Pub/Sub topic; unset: the embedded fan-out of one instance",
        "a topic's name (3 to 255 letters, digits and -._~+%, a letter first) or projects/PROJECT/topics/TOPIC",
        pattern=r"^(projects/[^/]+/topics/)?[A-Za-z][A-Za-z0-9\-._~+%]{2,254}$",
    )
    pubsub_subscription_name: Text = variable(
        None,
        "Prefix of the instances' subscriptions, `<prefix>-<instance id>`; unset: the topic's name",
        "3 to 230 letters, digits and -._~+%, a letter first",
        pattern=r"^[A-Za-z][A-Za-z0-9\-._~+%]{2,229}$",
    )
    pubsub_provider: Import = variable(None, "A factory of any other fan-out", IMPORT)
    setup_http_user: bool = variable(False, "`true` means `CLOUD_SOCKETS_AUTH=session`", "true or false")
    include_user_props: CommaSeparated = variable(
        (),
        "Properties of the user object by which a user is known, the most important first; unset: users are strings",
        "property names without colons, separated by commas",
    )
    session_parser: Import = variable(None, "A function(websocket) -> session; unset: Quart's signed cookie", IMPORT)
    session_user_property_name: str = variable("user", "Where in the session the user is", "a property name")
    session_lifetime: int = number(
        2_678_400,
        "How long a session counts from its signature on, or with a parser of your own a socket from its upgrade on; "
        "then the socket is closed with 3005",
        "seconds",
    )
    path: str = variable(
        "/ws",
        "Where sockets are opened",
        "a path such as /ws, none of the service's own, on Cloud Run not ending in z",
        pattern=r"^/[A-Za-z0-9\-._~/]+$",
    )
    max_payload: int = number(262_144, "The largest message, from a socket, HTTP or the topic", "bytes", most=10**7)
    per_message_deflate: bool = variable(True, "Whether sockets may compress", "true or false")

    # Ours
    auth: Literal["anonymous", "session"] | None = variable(
        None, "Who may connect; unset: `anonymous`, on Cloud Run it must be set", "anonymous or session"
    )
    allowed_origins: CommaSeparated | None = variable(
        None,
        "Which pages may open a socket; "
        "unset: those of the same scheme, host and port, with `anonymous` off Cloud Run also loopback ones",
        "origins such as https://app.example.com, https://*.example.com or https://app.example.com:*, "
        "null and file:// (pages from the disk), or * for all, separated by commas",
    )
    api_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_split)] = variable(
        (),
        "Bearer keys for HTTP publish, info and metrics; unset: open on a laptop, closed on Cloud Run",
        "keys of visible ASCII characters, separated by commas",
    )
    max_connections: int = number(10_000, "Connections of one instance; above: 503", "connections")
    max_subscriptions: int = number(1_000, "Subscriptions of one connection", "subscriptions")
    publish_backlog: int = number(
        16 * MEGABYTE, "What may wait to be accepted by the fan-out; full: a temporary error", "bytes"
    )
    max_buffered: int = number(MEGABYTE, "What may wait for one connection to take it; above: close code 3008", "bytes")
    max_buffered_total: int = number(
        128 * MEGABYTE, "The same for all connections; above: the slowest go first", "bytes"
    )
    max_awaiting_bytes: int = number(
        32 * MEGABYTE,
        "What may wait to be acknowledged, for all connections; above: the oldest of who owes most is given up",
        "bytes",
    )
    max_subscription_bytes: int = number(
        64 * MEGABYTE,
        "What the subscriptions of all connections may take; a connection gets an eighth of what is free at most",
        "bytes",
    )
    max_unfinished_bytes: int = number(
        32 * MEGABYTE,
        "What came in and is not handled yet, for all connections; above: who fills most is closed",
        "bytes",
    )
    message_rate: int = number(
        1_000,
        "Messages of one connection a second, five times as many at once; above: `rate_limited`; 0: no limit",
        "messages",
        least=0,
    )
    byte_rate: int = number(
        4 * MEGABYTE,
        "The same in bytes, inflated, four times as many at once; 0: no limit",
        "bytes",
        least=0,
    )
    history_size: int = number(
        1_000, "Messages of each channel that are kept for clients that come back; 0: none", "messages", least=0
    )
    history_ttl: int = number(300, "How long they are kept; 0: not at all", "seconds", least=0, most=31 * 24 * 3600)
    history_bytes: int = number(
        64 * MEGABYTE,
        "What they may take in all; above: a client's beyond an eighth, then the largest channel's go first; 0: none",
        "bytes",
        least=0,
    )
    delivery_skew: int = number(
        5, "How late Pub/Sub may deliver a message after a newer one", "seconds", least=0, most=600
    )
    max_age: int | None = optional_number(
        "Older messages are kept for recovery, and no longer sent as news; unset: all are sent", "seconds"
    )
    request_timeout: int = number(
        3_600,
        "The request timeout that Cloud Run was given; sockets move on at 80 to 95 %",
        "seconds",
        most=3_600,
    )
    rollover: int | None = optional_number(
        "Within this time of hearing of a newer revision sockets leave an older one; unset: they stay", "seconds"
    )
    orphan_grace: int = number(
        1_800,
        "After this silence an instance is taken for dead and its subscription deleted; 0: never",
        "seconds",
        least=0,
    )
    pubsub_endpoint: Text = variable(
        None,
        "A regional Pub/Sub endpoint; unset: the global one",
        "a host such as europe-west1-pubsub.googleapis.com",
        pattern=r"^[A-Za-z0-9.-]+(:[0-9]+)?$",
    )

    http2: bool = variable(
        False,
        "Whether HTTP/2 is spoken to who begins with it, for requests; sockets are opened by HTTP/1.1",
        "true or false",
    )

    host: CommaSeparated | None = variable(
        None,
        "Where to listen; unset: 127.0.0.1 and ::1, on Cloud Run all addresses; in the image `0.0.0.0`",
        "IP addresses or localhost, separated by commas, without a port; 0.0.0.0: all, those of IPv6 too",
    )

    # Standard names, without the prefix
    port: int = variable(8080, "Where to listen", "a port from 0 (any that is free) to 65535", ge=0, le=65535)
    google_cloud_project: Text = variable(None, "The topic's project; unset: google-auth's", "a project's id")
    pubsub_emulator_host: Text = variable(
        None, "A Pub/Sub emulator instead of the real service", "host:port", pattern=r"^[^/\s]+:[0-9]+$"
    )
    k_service: Text = variable(None, "Set by Cloud Run: the service", "a name")
    k_revision: Text = variable(None, "Set by Cloud Run: the revision", "a name")
    log_level: Level = variable(
        "INFO", "The least severe log lines that are shown", "DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    secret_key: SecretStr | None = variable(
        None,
        "Signs the session cookie; the same as in the app that issues it",
        "a secret, set with CLOUD_SOCKETS_AUTH=session",
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read all variables. Raises SettingsError with every problem there is, not only the first."""
        given = {
            field: environment[name] for field in cls.model_fields if (name := variable_name(field)) in environment
        }
        # An empty variable is an empty list, or as good as unset.
        given = {field: value for field, value in given.items() if value or field in _LISTS}
        wrong: dict[str, str] = {}
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            wrong = {str(detail["loc"][0]): _allowed(str(detail["loc"][0])) for detail in error.errors()}
            settings = cls.model_validate({field: value for field, value in given.items() if field not in wrong})
        for field, allowed in settings.problems():
            wrong.setdefault(field, allowed)
        if wrong:
            raise SettingsError([describe(field, given.get(field), allowed) for field, allowed in wrong.items()])
        return settings

    def problems(self) -> Iterator[Problem]:
        """What does not fit together, although each value by itself may be given."""
        if self.on_cloud_run and self.auth is None and not self.setup_http_user:
            yield "auth", "anonymous or session; on Cloud Run there is no default"
        if self.setup_http_user and self.auth == "anonymous":
            yield "setup_http_user", "false with CLOUD_SOCKETS_AUTH=anonymous: true means session"
        if self.auth_mode == "session" and self.session_parser is None and self.secret_key is None:
            yield "secret_key", "the secret that signs the session cookie; CLOUD_SOCKETS_AUTH=session needs it"
        if self.path in ("/metrics", "/client.js") or self.path.startswith(("/health/", "/api/")):
            yield "path", _allowed("path")
        elif self.on_cloud_run and self.path.endswith("z"):
            yield "path", "a path that does not end in z: Cloud Run keeps those for itself"
        yield from self._address_problems()
        if self.secret_key is not None and not self.secret_key.get_secret_value().strip():
            yield "secret_key", "a secret of more than white space"
        if any(not re.fullmatch(r"[!-~]+", key.get_secret_value()) for key in self.api_keys):
            yield "api_keys", _allowed("api_keys")
        if any(":" in prop or not is_name(prop) for prop in self.include_user_props):
            yield "include_user_props", _allowed("include_user_props")
        if 0 < self.orphan_grace < LEAST_GRACE and self.pubsub_emulator_host is None:
            yield (
                "orphan_grace",
                f"0, or at least {LEAST_GRACE}: Cloud Run may keep an idle instance without CPU for long",
            )
        yield from self._type_problems()

    def _address_problems(self) -> Iterator[Problem]:
        try:
            listening_on(self.host if self.host is not None else ["localhost"])
        except ValueError:
            yield "host", _allowed("host")
        for origin in self.allowed_origins or ():
            if origin.lower() in ("*", "null"):
                continue
            try:
                origin_pattern(origin)
            except ValueError as error:
                yield "allowed_origins", f"{_allowed('allowed_origins')}; {origin[:200]!r} is none: {error}"

    def warnings(self) -> Iterator[str]:
        """Yield a sentence about each setting that is allowed, and yet most likely not meant."""
        key = "" if self.secret_key is None else self.secret_key.get_secret_value()
        if key != key.strip():
            yield (
                "SECRET_KEY begins or ends with white space, such as the line break of a file: unless the app that "
                "signs the cookies has the same, none of them counts here"
            )
        if self.on_cloud_run or self.is_on_loopback:
            return
        here = f"it listens on {', '.join(address.host for address in self.addresses)}, not on this machine alone"
        if self.auth is None and not self.setup_http_user:
            yield f"{here}, and {PREFIX}AUTH is not set: whoever can reach it may open a socket"
        if not self.api_keys:
            yield f"{here}, and {PREFIX}API_KEYS is not set: whoever can reach it may publish and read info and metrics"

    def _type_problems(self) -> Iterator[Problem]:
        lists = {
            "ack_message_types": (self.ack_message_types, messages.COMMANDS | messages.REPLIES),
            "broadcast_message_types": (self.broadcast_message_types, messages.BUILT_IN - {messages.BROADCAST}),
            "pubsub_message_types": (self.pubsub_message_types or (), messages.COMMANDS | messages.REPLIES),
        }
        for field, (types, refused) in lists.items():
            for name in types:
                if not is_name(name) or name.startswith(messages.OWN_PREFIX):
                    yield field, f"{TYPES}; {name!r} is not {NAME_RULE} or begins with {messages.OWN_PREFIX}"
                elif name in refused:
                    yield field, f"{TYPES}; {name!r} is a built-in type that cannot be in this list"
        if twice := set(self.broadcast_message_types) & set(self.pubsub_message_types or ()):
            yield "broadcast_message_types", f"types that are not in {PREFIX}PUBSUB_MESSAGE_TYPES: {min(twice)!r} is"

    @property
    def on_cloud_run(self) -> bool:
        """Whether this process was started by Cloud Run."""
        return self.k_service is not None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Addresses to listen on, with the default that holds here."""
        if self.host is not None:
            return listening_on(self.host)
        return ALL if self.on_cloud_run else LOOPBACK

    @property
    def is_on_loopback(self) -> bool:
        """Return whether only this machine itself can reach the service."""
        return all(is_loopback_address(address.host) for address in self.addresses)

    @property
    def serves_own_machine(self) -> bool:
        """Return whether this is the hub of a laptop, open to whatever runs there and to nobody else."""
        return not self.on_cloud_run and self.auth_mode == "anonymous" and self.is_on_loopback

    @property
    def auth_mode(self) -> Literal["anonymous", "session"]:
        """Who may connect, with the default that holds here."""
        return self.auth or ("session" if self.setup_http_user else "anonymous")

    @property
    def keeps_history(self) -> bool:
        """Whether messages are kept for clients that come back."""
        return 0 not in (self.history_size, self.history_ttl, self.history_bytes)

    @property
    def shared_types(self) -> frozenset[str]:
        """The types that reach all instances, with the default that holds here."""
        if self.pubsub_message_types is not None:
            return frozenset(self.pubsub_message_types)
        return messages.PUBLISHED


_STANDARD = {
    "port",
    "google_cloud_project",
    "pubsub_emulator_host",
    "k_service",
    "k_revision",
    "log_level",
    "secret_key",
}
_SECRETS = {"secret_key", "api_keys"}
_LISTS = {
    "ack_message_types",
    "broadcast_message_types",
    "pubsub_message_types",
    "include_user_props",
    "allowed_origins",
    "api_keys",
}


def variable_name(field: str) -> str:
    """The environment variable of a field."""
    return field.upper() if field in _STANDARD else PREFIX + field.upper()


def describe(field: str, value: object, allowed: str) -> str:
    """The line about a bad variable; a secret's value is not shown."""
    if value is None:
        shown = "is not set"
    elif field in _SECRETS:
        shown = "(its value is not shown)"
    else:
        shown = f"is {str(value)[:200]!r}"
    return f"{variable_name(field)} {shown}: allowed is {allowed}"


def unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence about each variable with our prefix that is none of ours: most likely a slip of the pen."""
    known = [variable_name(field) for field in Settings.model_fields]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            close = get_close_matches(name, known, 1)
            yield f"{name} is not a variable of this service" + (f"; did you mean {close[0]}?" if close else "")


def _allowed(field: str) -> str:
    extra = Settings.model_fields[field].json_schema_extra
    return str(extra["allowed"]) if isinstance(extra, dict) else ""
