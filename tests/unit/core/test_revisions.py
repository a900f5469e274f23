"""Which revision is the newer."""

import pytest

from app.core.revisions import is_newer, newest_after


@pytest.mark.parametrize(
    ("other", "own"),
    [
        ("hub-00002-abc", "hub-00001-xyz"),
        ("hub-00010-abc", "hub-00009-xyz"),
        ("hub-100000-abc", "hub-99999-xyz"),
        ("my-hub-2-00043-a1b", "my-hub-2-00042-9zz"),
        ("hub-00002", "hub-00001"),
    ],
)
def test_a_greater_number_of_the_same_service_is_newer(other: str, own: str) -> None:
    assert is_newer(other, own)
    assert not is_newer(own, other)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("hub-00001-abc", "hub-00001-abc"),
        ("hub-00001-abc", "hub-00001-xyz"),
        ("hub-00001-abc", "shop-00002-abc"),
        ("hub-00001-abc", "hub-v2"),
        ("hub-green", "hub-blue"),
        ("hub-00001-abc", "hub-00002"),
        ("hub-00001-abc", "hub-20261125"),
        ("hub-20261124", "hub-20261125"),
        ("hub-00001-abc", "hub-00002-abc\n"),
        ("hub-00001-abc", "hub-00002-ABC"),
        ("00001-abc", "00002-abc"),
        ("", "hub-00001-abc"),
    ],
)
def test_of_anything_else_nothing_is_known(one: str, another: str) -> None:
    assert not is_newer(one, another)
    assert not is_newer(another, one)


def test_the_newest_of_all_that_are_heard_is_found() -> None:
    heard = ["hub-00003-abc", None, "hub-00005-abc", "hub-00001-abc", "shop-00009-abc", "hub-v9", "hub-00004-abc"]
    assert newest_after("hub-00003-xyz", heard) == "hub-00005-abc"
    assert newest_after("hub-00005-xyz", heard) is None
    assert newest_after("hub-v1", heard) is None
    assert newest_after(None, heard) is None
    assert newest_after("hub-00001-abc", []) is None
