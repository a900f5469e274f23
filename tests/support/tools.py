"""Programs that a test needs and a machine may lack."""

import os
import shutil

import pytest


def missing(*programs: str) -> None:
    """Skip the test where one of these is not installed; in CI that is a failure."""
    for program in programs:
        if shutil.which(program) is None:
            reason = f"{program} is not installed here"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
