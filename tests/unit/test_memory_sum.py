"""docs/memory.md adds up what the settings allow."""

import re

import pytest

from app.settings import Settings
from docs import memory


def test_document_is_what_the_settings_add_up_to() -> None:
    text = memory.DOCUMENT.read_text()
    assert memory.with_numbers(text) == text, "make format writes it anew"
    text = text[text.index("<!-- memory") : text.index("<!-- /memory")]
    numbers = [int(row.replace(",", "")) for row in re.findall(r"\| ([\d,]+) \|$", text, re.MULTILINE)]
    (total,) = re.findall(r"\*\*([\d,]+)\*\* \|$", text, re.MULTILINE)
    assert abs(sum(numbers) - int(total.replace(",", ""))) <= len(numbers) / 2 + 1


@pytest.mark.parametrize(
    "field",
    [
        "max_buffered_total", "history_bytes", "max_awaiting_bytes", "max_subscription_bytes", "max_unfinished_bytes",
        "publish_backlog", "max_connections",
    ],
)  # fmt: skip
def test_every_bound_of_all_connections_is_in_the_sum(field: str) -> None:
    settings = Settings()
    more = settings.model_copy(update={field: 2 * getattr(settings, field)})
    assert memory.needed(more) >= memory.needed(settings) + getattr(settings, field)


def test_terraforms_instance_is_large_enough() -> None:
    assert memory.needed(Settings(max_connections=950)) < 2**30
