"""Reading the environment."""

import pytest

from app.addresses import ALL, LOOPBACK, Address
from app.settings import Settings, SettingsError, unknown_variables, variable_name


def read(**variables: str) -> Settings:
    return Settings.from_environment(variables)


def lines(**variables: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as refused:
        read(**variables)
    return {line.split()[0]: line for line in refused.value.lines}


def test_an_empty_environment_is_a_laptop() -> None:
    settings = read()
    assert (settings.port, settings.path, settings.auth_mode, settings.on_cloud_run) == (
        8080,
        "/ws",
        "anonymous",
        False,
    )
    assert settings.shared_types == {"announce", "broadcast", "notification"}


def test_lists_are_separated_by_commas() -> None:
    assert read(CLOUD_SOCKETS_ACK_MESSAGE_TYPES=" announce , todo,").ack_message_types == ("announce", "todo")


FANOUTS: list[dict[str, str]] = [
    {},
    {"CLOUD_SOCKETS_PUBSUB_TOPIC_NAME": "news"},
    {"CLOUD_SOCKETS_PUBSUB_PROVIDER": "a.b:c"},
]


@pytest.mark.parametrize("fanout", FANOUTS)
def test_the_built_in_types_are_shared_whatever_carries_them(fanout: dict[str, str]) -> None:
    assert read(**fanout).shared_types == {"announce", "broadcast", "notification"}


@pytest.mark.parametrize("fanout", FANOUTS)
@pytest.mark.parametrize(("given", "types"), [("todo", {"todo"}), ("", set())])
def test_a_list_of_shared_types_replaces_the_default(given: str, types: set[str], fanout: dict[str, str]) -> None:
    assert read(**fanout, CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES=given).shared_types == types


def test_a_laptop_listens_for_itself_and_cloud_run_for_all() -> None:
    on_cloud_run = {"K_SERVICE": "hub", "CLOUD_SOCKETS_AUTH": "anonymous"}
    assert read().addresses == read(CLOUD_SOCKETS_HOST="").addresses == LOOPBACK
    assert read(**on_cloud_run).addresses == read(CLOUD_SOCKETS_HOST="0.0.0.0").addresses == ALL
    assert read(**on_cloud_run, CLOUD_SOCKETS_HOST="0.0.0.0").addresses == ALL
    assert read(CLOUD_SOCKETS_HOST="10.0.0.7, ::1").addresses == (Address("10.0.0.7"), Address("::1"))


def test_only_an_open_hub_on_loopback_is_its_own_machines() -> None:
    assert read().serves_own_machine
    assert read(CLOUD_SOCKETS_HOST="127.0.0.1", CLOUD_SOCKETS_AUTH="anonymous").serves_own_machine
    assert not read(CLOUD_SOCKETS_HOST="0.0.0.0").serves_own_machine
    assert not read(CLOUD_SOCKETS_HOST="127.0.0.1,10.0.0.7").serves_own_machine
    assert not read(CLOUD_SOCKETS_AUTH="session", SECRET_KEY="s").serves_own_machine
    assert not read(K_SERVICE="hub", CLOUD_SOCKETS_AUTH="anonymous", CLOUD_SOCKETS_HOST="::1").serves_own_machine


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, []),
        ({"CLOUD_SOCKETS_HOST": "127.0.0.1"}, []),
        ({"CLOUD_SOCKETS_HOST": "0.0.0.0"}, ["CLOUD_SOCKETS_AUTH", "CLOUD_SOCKETS_API_KEYS"]),
        ({"CLOUD_SOCKETS_HOST": "10.0.0.7"}, ["CLOUD_SOCKETS_AUTH", "CLOUD_SOCKETS_API_KEYS"]),
        ({"CLOUD_SOCKETS_HOST": "0.0.0.0", "CLOUD_SOCKETS_AUTH": "anonymous"}, ["CLOUD_SOCKETS_API_KEYS"]),
        ({"CLOUD_SOCKETS_HOST": "0.0.0.0", "CLOUD_SOCKETS_API_KEYS": "key"}, ["CLOUD_SOCKETS_AUTH"]),
        (
            {"CLOUD_SOCKETS_HOST": "::", "CLOUD_SOCKETS_API_KEYS": "key", "CLOUD_SOCKETS_SETUP_HTTP_USER": "true"}
            | {"SECRET_KEY": "s"},
            [],
        ),
        ({"CLOUD_SOCKETS_HOST": "0.0.0.0", "K_SERVICE": "hub", "CLOUD_SOCKETS_AUTH": "anonymous"}, []),
        ({"SECRET_KEY": "s"}, []),
        ({"SECRET_KEY": "s\n"}, ["SECRET_KEY"]),
        ({"SECRET_KEY": " s"}, ["SECRET_KEY"]),
    ],
)
def test_open_doors_and_a_key_with_a_line_break_are_warned_of(variables: dict[str, str], named: list[str]) -> None:
    sentences = list(read(**variables).warnings())
    assert len(sentences) == len(named)
    assert all(name in sentence for name, sentence in zip(named, sentences, strict=True)), sentences


def test_a_key_of_white_space_is_none() -> None:
    assert set(lines(SECRET_KEY=" \n", CLOUD_SOCKETS_AUTH="session")) == {"SECRET_KEY"}


def test_an_empty_variable_is_as_good_as_unset() -> None:
    assert read(CLOUD_SOCKETS_MAX_PAYLOAD="", CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="", SECRET_KEY="") == read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("LOG_LEVEL", "LOUD"),
        ("PUBSUB_EMULATOR_HOST", "http://localhost:8085"),
        ("CLOUD_SOCKETS_ACK_MESSAGE_TYPES", "ack"),
        ("CLOUD_SOCKETS_ACK_MESSAGE_TYPES", "cloud-sockets.x"),
        ("CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES", "announce"),
        ("CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES", "x" * 256),
        ("CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES", "subscribe"),
        ("CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS", "no_colon"),
        ("CLOUD_SOCKETS_MSG_RESEND_DELAY", "0"),
        ("CLOUD_SOCKETS_MSG_RESEND_TIMEOUT", "-1"),
        ("CLOUD_SOCKETS_PUBSUB_TOPIC_NAME", "a/b"),
        ("CLOUD_SOCKETS_PUBSUB_TOPIC_NAME", "projects//topics/news"),
        ("CLOUD_SOCKETS_PUBSUB_SUBSCRIPTION_NAME", "1st"),
        ("CLOUD_SOCKETS_SETUP_HTTP_USER", "perhaps"),
        ("CLOUD_SOCKETS_INCLUDE_USER_PROPS", "a:b"),
        ("CLOUD_SOCKETS_PATH", "ws"),
        ("CLOUD_SOCKETS_PATH", "/health/live"),
        ("CLOUD_SOCKETS_PATH", "/metrics"),
        ("CLOUD_SOCKETS_PATH", "/"),
        ("CLOUD_SOCKETS_MAX_PAYLOAD", "1e5"),
        ("CLOUD_SOCKETS_MAX_PAYLOAD", "20000000"),
        ("CLOUD_SOCKETS_AUTH", "none"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "example.com"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "https://example.com/path"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "https://example.com:99999"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "https://app.*.com"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "https://*"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "wss://example.com"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "file:///page.html"),
        ("CLOUD_SOCKETS_ALLOWED_ORIGINS", "https://straße.example"),
        ("CLOUD_SOCKETS_HOST", "hub.example.com"),
        ("CLOUD_SOCKETS_HOST", "127.0.0.1:8080"),
        ("CLOUD_SOCKETS_HOST", ","),
        ("CLOUD_SOCKETS_HOST", "127.0.0.1,everywhere"),
        ("CLOUD_SOCKETS_SESSION_LIFETIME", "0"),
        ("CLOUD_SOCKETS_SESSION_LIFETIME", "31 days"),
        ("CLOUD_SOCKETS_MAX_CONNECTIONS", "0"),
        ("CLOUD_SOCKETS_PUBSUB_ENDPOINT", "https://pubsub"),
        ("CLOUD_SOCKETS_HISTORY_SIZE", "-1"),
        ("CLOUD_SOCKETS_HISTORY_TTL", "for ever"),
        ("CLOUD_SOCKETS_DELIVERY_SKEW", "601"),
        ("CLOUD_SOCKETS_MAX_AGE", "0"),
        ("CLOUD_SOCKETS_ROLLOVER", "off"),
        ("CLOUD_SOCKETS_REQUEST_TIMEOUT", "3601"),
        ("CLOUD_SOCKETS_ORPHAN_GRACE", "60"),
    ],
)
def test_a_bad_value_is_named_shown_and_told_what_is_allowed(name: str, value: str) -> None:
    line = lines(**{name: value})[name]
    assert repr(value)[:200] in line
    assert "allowed is " in line
    assert line.count("\n") == 0


def test_all_problems_are_told_at_once() -> None:
    told = lines(PORT="x", CLOUD_SOCKETS_PATH="x", K_SERVICE="hub", CLOUD_SOCKETS_API_KEYS="two words")
    assert set(told) == {"PORT", "CLOUD_SOCKETS_PATH", "CLOUD_SOCKETS_AUTH", "CLOUD_SOCKETS_API_KEYS"}


def test_a_secret_is_never_shown() -> None:
    assert "two words" not in lines(CLOUD_SOCKETS_API_KEYS="two words")["CLOUD_SOCKETS_API_KEYS"]
    settings = read(SECRET_KEY="hush", CLOUD_SOCKETS_API_KEYS="quiet")
    assert "hush" not in repr(settings)
    assert "quiet" not in repr(settings)


def test_cloud_run_has_no_default_for_who_may_connect() -> None:
    assert "CLOUD_SOCKETS_AUTH is not set" in lines(K_SERVICE="hub")["CLOUD_SOCKETS_AUTH"]
    assert read(K_SERVICE="hub", CLOUD_SOCKETS_AUTH="anonymous").on_cloud_run


def test_sessions_need_a_key_or_a_parser() -> None:
    assert set(lines(CLOUD_SOCKETS_AUTH="session")) == {"SECRET_KEY"}
    assert set(lines(CLOUD_SOCKETS_SETUP_HTTP_USER="true")) == {"SECRET_KEY"}
    assert read(CLOUD_SOCKETS_SETUP_HTTP_USER="true", SECRET_KEY="s").auth_mode == "session"
    assert read(CLOUD_SOCKETS_AUTH="session", CLOUD_SOCKETS_SESSION_PARSER="a:b").auth_mode == "session"


def test_http_users_and_anonymous_contradict_each_other() -> None:
    told = lines(CLOUD_SOCKETS_SETUP_HTTP_USER="true", CLOUD_SOCKETS_AUTH="anonymous")
    assert set(told) == {"CLOUD_SOCKETS_SETUP_HTTP_USER"}


def test_a_type_cannot_be_shared_and_broadcast() -> None:
    told = lines(CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES="todo", CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES="todo")
    assert set(told) == {"CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES"}


def test_the_seeds_own_example_may_list_broadcast_as_a_broadcast_type() -> None:
    settings = read(CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES="broadcast", CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="news")
    assert settings.broadcast_message_types == ("broadcast",)


def test_a_path_that_cloud_run_keeps_is_refused_there() -> None:
    assert read(CLOUD_SOCKETS_PATH="/jazz").path == "/jazz"
    told = lines(CLOUD_SOCKETS_PATH="/jazz", K_SERVICE="hub", CLOUD_SOCKETS_AUTH="anonymous")
    assert set(told) == {"CLOUD_SOCKETS_PATH"}


@pytest.mark.parametrize("name", ["HISTORY_SIZE", "HISTORY_TTL", "HISTORY_BYTES"])
def test_a_zero_turns_the_history_off(name: str) -> None:
    assert read().keeps_history
    assert not read(**{f"CLOUD_SOCKETS_{name}": "0"}).keeps_history


def test_a_silence_shorter_than_cloud_runs_throttling_is_no_death_but_in_an_emulator() -> None:
    short = {"CLOUD_SOCKETS_ORPHAN_GRACE": "5"}
    assert set(lines(**short)) == {"CLOUD_SOCKETS_ORPHAN_GRACE"}
    assert read(**short, PUBSUB_EMULATOR_HOST="localhost:8085").orphan_grace == 5
    assert read(CLOUD_SOCKETS_ORPHAN_GRACE="0").orphan_grace == 0


def test_a_slip_of_the_pen_is_pointed_out() -> None:
    environment = {"CLOUD_SOCKETS_MAX_PAYLOD": "1", "CLOUD_SOCKETS_PATH": "/ws", "HOME": "/"}
    assert list(unknown_variables(environment)) == [
        "CLOUD_SOCKETS_MAX_PAYLOD is not a variable of this service; did you mean CLOUD_SOCKETS_MAX_PAYLOAD?"
    ]


def test_every_variable_has_a_sentence_and_says_what_is_allowed() -> None:
    for field, definition in Settings.model_fields.items():
        extra = definition.json_schema_extra
        assert definition.description, variable_name(field)
        assert isinstance(extra, dict)
        assert extra["allowed"], variable_name(field)
