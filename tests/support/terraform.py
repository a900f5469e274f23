"""terraform/ as its tests see it: blocks, variables and outputs, without what the parser adds."""

from functools import cache
from pathlib import Path
from typing import Any

import hcl2

from tests.support.process import ROOT

FOLDER = ROOT / "terraform"


def _plain(value: Any) -> Any:
    """Without quotes around strings, and without the parser's marks."""
    match value:
        case "true" | "false":
            return value == "true"
        case dict():
            return {_plain(key): _plain(item) for key, item in value.items() if not key.startswith("__")}
        case list():
            return [_plain(item) for item in value]
        case str() if len(value) > 1 and value[0] == value[-1] == '"':
            return value[1:-1].replace('\\"', '"')
        case _:
            return value


@cache
def read(file: str) -> dict[str, Any]:
    """A file: kind of block -> its blocks."""
    with (FOLDER / file).open() as text:
        plain: dict[str, Any] = _plain(hcl2.load(text))
    return plain


def blocks(kind: str) -> dict[str, Any]:
    """All blocks of a kind with one label, such as `variable`, in the order of the files' lines."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        for block in read(path.name).get(kind, []):
            found.update(block)
    return found


def local(name: str) -> Any:
    """A local value, as it is written."""
    return blocks("locals")[name]


def resource(kind: str, name: str) -> dict[str, Any]:
    """A resource."""
    for path in sorted(FOLDER.glob("*.tf")):
        for block in read(path.name).get("resource", []):
            if name in block.get(kind, {}):
                found: dict[str, Any] = block[kind][name]
                return found
    raise KeyError(f"{kind}.{name}")


def text() -> str:
    """All of it."""
    return "\n".join(Path(path).read_text() for path in sorted(FOLDER.glob("*.tf")))
