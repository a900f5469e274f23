"""The bench works: all its servers, all its scenarios, in small. What it measures then means nothing."""

import os
import subprocess
import sys

import pytest

from bench.peers import PEERS
from tests.support.process import ROOT

pytestmark = pytest.mark.once


@pytest.mark.timeout(300)
def test_the_short_bench_measures_everything() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if "is left out" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip(done.stderr.strip().splitlines()[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What could not be measured" not in done.stdout
    for peer in PEERS:
        assert f"\n| {peer.name} |" in done.stdout
    for section in (
        "One message to many",
        "Bursts of 64",
        "Many small channels",
        "Connecting",
        "Memory",
        "Growth",
        "Pub/Sub",
    ):
        assert f"\n## {section}\n" in done.stdout
