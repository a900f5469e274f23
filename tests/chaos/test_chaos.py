"""The trials of `make chaos`, one by one, for who prefers pytest: `make test ARGS="-m chaos"`."""

import pytest

from tests.chaos.run import chaos, killed_instance, rolling_replacement

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
SEED = 1


async def test_a_rolling_replacement_under_load_loses_and_doubles_nothing() -> None:
    outcome = await rolling_replacement(SEED)
    assert outcome.passed, outcome


async def test_the_clients_of_a_killed_instance_recover_on_the_others() -> None:
    outcome = await killed_instance(SEED)
    assert outcome.passed, outcome


async def test_under_chaos_nothing_is_lost_or_doubled_without_a_word() -> None:
    outcome = await chaos(SEED, 60)
    assert outcome.passed, outcome
