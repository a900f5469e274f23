"""Finding the user in a session."""

import pytest

from app.auth.session import user_of
from app.core.users import UserError


def test_the_user_is_where_the_settings_say() -> None:
    found = user_of({"account": {"id": 7}}, "account", ("id",))
    assert (found.user.name, found.session_user) == ("7", {"id": 7})


@pytest.mark.parametrize("session", [None, {}, {"user": None}, "ann", {"other": "ann"}])
def test_without_a_user_there_is_an_error(session: object) -> None:
    with pytest.raises(UserError):
        user_of(session, "user", ())
