"""The errors that a sender is told about: a code for programs, a sentence for people."""

from enum import StrEnum


class ErrorCode(StrEnum):
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    BINARY_FRAME = "binary_frame"
    DUPLICATE_KEY = "duplicate_key"
    TOO_DEEP = "too_deep"
    MISSING_FIELD = "missing_field"
    INVALID_FIELD = "invalid_field"
    RESERVED_TYPE = "reserved_type"
    UNSUPPORTED_TYPE = "unsupported_type"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    TOO_LARGE = "too_large"
    HANDLER_FAILED = "handler_failed"
    USER_OFFLINE = "user_offline"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @property
    def temporary(self) -> bool:
        """Whether the same message may succeed later."""
        return self in (ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED)

    @property
    def malformed_input(self) -> bool:
        """Whether the sender itself is at fault: only these count towards close code 3501."""
        return self not in _NOT_THE_SENDERS_FAULT


_NOT_THE_SENDERS_FAULT = frozenset(
    {
        ErrorCode.HANDLER_FAILED,
        ErrorCode.USER_OFFLINE,
        ErrorCode.RATE_LIMITED,  # it has a limit of its own
        ErrorCode.TOO_MANY_SUBSCRIPTIONS,  # others may have taken what there is
        ErrorCode.UNAVAILABLE,
        ErrorCode.INTERNAL,
    }
)


class MessageError(Exception):
    """A message that is refused: `code` for programs, `value` (one sentence) for people. Its sender sees both."""

    def __init__(self, code: ErrorCode, value: str) -> None:
        super().__init__(value)
        self.code = code
        self.value = value
