"""What the commands ask a person."""

import pytest

from app.commands import _ask


@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), (" YES ", True), ("n", False), (None, False)])
def test_only_a_yes_is_one(monkeypatch: pytest.MonkeyPatch, answer: str | None, goes_on: bool) -> None:
    """None: the end of the input, as Ctrl-D brings it."""

    def read(prompt: str) -> str:
        assert "delete 3?" in prompt
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", read)
    assert _ask(3) is goes_on
