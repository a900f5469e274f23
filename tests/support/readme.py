"""The README as its tests see it: its code blocks, and the tables that are written from the code.

`python -m tests.support.readme` (part of `make format`) writes the tables anew.
"""

import re
from pathlib import Path
from typing import Any

from app.metrics import Metrics
from app.settings import Settings, variable_name
from tests.support import terraform
from tests.support.process import ROOT

README = ROOT / "README.md"


def block(section: str, language: str, number: int = 0) -> str:
    """A code block under a heading."""
    text = README.read_text()
    start = text.index(f"\n## {section}\n")
    end = text.find("\n## ", start + 1)
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text[start:end], re.MULTILINE | re.DOTALL)
    return blocks[number]


def variables_table() -> str:
    """Every variable with its default, its sentence and what is allowed."""
    rows = ["| variable | default | what it is for | allowed |", "| --- | --- | --- | --- |"]
    for field, definition in Settings.model_fields.items():
        extra = definition.json_schema_extra
        assert isinstance(extra, dict)
        default = definition.default
        shown = "" if default in (None, ()) else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        cells = [f"`{variable_name(field)}`", shown, str(definition.description), str(extra["allowed"])]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Every metric with its type and its sentence."""
    text = Metrics().render().decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    rows = ["| metric | type | what it counts |", "| --- | --- | --- |"]
    for name, sentence in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
        if not name.endswith("_created"):  # when a counter began: prometheus_client's own
            rows.append(f"| `{name}` | {types[name]} | {sentence} |")
    return "\n".join(rows)


def terraform_variables_table() -> str:
    """Every Terraform variable with its default."""
    rows = ["| Terraform variable | default | what it is for |", "| --- | --- | --- |"]
    for name, block in terraform.blocks("variable").items():
        rows.append(f"| `{name}` | {_default(block)} | {block['description']} |")
    return "\n".join(rows)


def _default(block: dict[str, Any]) -> str:
    """As it is written; of an object, its attributes' own."""
    attributes = re.findall(r'(\w+) = optional\([^,]+, ("[^"]*"|[\w\[\]]+)\)', block["type"])
    if "default" not in block:
        return "**required**"
    if attributes and block["default"] == {}:
        return "<br>".join(f"`{name} = {value}`" for name, value in attributes)
    return {"": "", "{}": "", "[]": "", "null": "", "None": ""}.get(
        str(block["default"]), f"`{block['default']}`".lower()
    )


def terraform_outputs_table() -> str:
    """Every Terraform output."""
    rows = ["| Terraform output | what it is |", "| --- | --- |"]
    rows += [f"| `{name}` | {block['description']} |" for name, block in terraform.blocks("output").items()]
    return "\n".join(rows)


def with_tables(text: str) -> str:
    """The README's text with its tables as the code has them."""
    tables = {
        "variables": variables_table(),
        "metrics": metrics_table(),
        "terraform-variables": terraform_variables_table(),
        "terraform-outputs": terraform_outputs_table(),
    }
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", text)  # type: ignore[misc]
    return text


def main(path: Path = README) -> None:
    """Write the tables anew."""
    path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main()
