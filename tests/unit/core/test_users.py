"""Users and the tags by which they are reached."""

import pytest

from app.core.users import User, UserError, UserMap, identify


def test_a_string_is_a_user_by_itself() -> None:
    assert identify("ann", ()) == User("ann", ("ann",))


def test_an_object_is_known_by_each_included_property_and_named_by_the_first() -> None:
    user = identify({"name": "ann", "mail": "a@b.c", "id": 7, "secret": "x"}, ("id", "mail"))
    assert user == User("7", ("id:7", "mail:a@b.c"))


def test_a_missing_property_is_left_out_but_for_the_first() -> None:
    assert identify({"id": "7"}, ("id", "mail")).keys == ("id:7",)
    with pytest.raises(UserError, match="'id'"):
        identify({"mail": "a@b.c"}, ("id", "mail"))


@pytest.mark.parametrize("user", [{"name": "ann"}, 7, True, [], "", "a\n", "x" * 256])
def test_without_included_properties_only_names_are_users(user: object) -> None:
    with pytest.raises(UserError):
        identify(user, ())


@pytest.mark.parametrize("value", [True, 1.5, [], {}, "", "a\x00"])
def test_a_property_that_is_no_name_is_refused(value: object) -> None:
    with pytest.raises(UserError):
        identify({"id": value}, ("id",))


def test_a_bare_tag_means_the_first_property_and_a_named_one_any() -> None:
    users: UserMap[str] = UserMap(("id", "mail"))
    users.add("tab", identify({"id": "7", "mail": "a@b.c"}, ("id", "mail")))
    for tag in ("7", "id:7", "mail:a@b.c"):
        assert list(users.connections_of(tag)) == ["tab"], tag
    for tag in ("a@b.c", "mail:7", "name:7", ""):
        assert list(users.connections_of(tag)) == [], tag


def test_a_colon_in_a_tag_of_no_property_is_part_of_it() -> None:
    users: UserMap[str] = UserMap()
    users.add("tab", identify("urn:ann", ()))
    assert list(users.connections_of("urn:ann")) == ["tab"]


def test_a_user_is_online_as_long_as_one_connection_is() -> None:
    users: UserMap[int] = UserMap()
    ann = identify("ann", ())
    users.add(1, ann)
    users.add(2, ann)
    users.remove(1, ann)
    assert (list(users.names), list(users.connections_of("ann"))) == (["ann"], [2])
    users.remove(2, ann)
    assert (list(users.names), list(users.connections_of("ann"))) == ([], [])
