"""docs/interop.md says of clients and proxies what `make interop` runs."""

import json
import re

import pytest

from tests.interop import clients, proxies
from tests.support.process import ROOT

TEXT = proxies.DOCUMENT.read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
RUN = {row[0]: row for row in ROWS if "run" in row[2:4]}
LOCK = dict(re.findall(r"^([\w-]+)==(\S+)", (clients.HERE / "requirements.lock").read_text(), re.MULTILINE))
PACKAGES = json.loads((clients.HERE / "package.json").read_text())["dependencies"]
PINNED = {name.lower().replace("_", "-"): version for name, version in {**PACKAGES, **LOCK}.items()}


def test_the_table_has_what_is_run() -> None:
    assert {*RUN} == {kind.name for kind in clients.KINDS} | {proxy.name for proxy in proxies.PROXIES}
    for kind in clients.KINDS:
        row = RUN[kind.name]
        assert row[4] == ", ".join(kind.modes), kind.name
        known = kind.known.get("shutdown")
        assert row[5] == ("nothing" if known else "3001"), kind.name


def test_the_versions_are_those_that_are_pinned() -> None:
    found = 0
    for name, row in RUN.items():
        where = PACKAGES if "(Node)" in name else PINNED
        version = where.get(name.split(" ")[0].lower().replace("_", "-"))
        if version:
            assert row[1] == version, name
            found += 1
    assert found >= 20


@pytest.mark.parametrize("proxy", proxies.PROXIES, ids=lambda proxy: proxy.name)
def test_each_proxy_has_a_configuration_with_its_times(proxy: proxies.Proxy) -> None:
    shown = proxies.shown(proxy.name)
    assert proxies.SHOWN_PORT in shown + TEXT
    assert proxies.HUB_PORT in shown
    assert all(line in shown for line in proxy.timeouts)


def test_no_lock_names_a_registry() -> None:
    for name in ("requirements.lock", "package-lock.json", ".npmrc"):
        text = (clients.HERE / name).read_text()
        assert "://" not in re.sub(r'"url": "[^"]+"', "", text), name
    assert "omit-lockfile-registry-resolved=true" in (clients.HERE / ".npmrc").read_text()
    lock = (clients.HERE / "requirements.lock").read_text()
    assert lock.count("--hash=sha256:") >= len(LOCK) >= 15


def test_the_make_target_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "\ninterop:" in makefile
    assert "tests/interop/requirements.in" in makefile
