"""The schedule is its seed's."""

from tests.chaos.schedule import LASTS, REPLACING, Kind, schedule
from tests.chaos.slots import SLOTS, VETERAN


def test_the_same_seed_makes_the_same_schedule() -> None:
    assert schedule(7, 600) == schedule(7, 600)
    assert schedule(7, 600) != schedule(8, 600)


def test_a_longer_run_begins_as_a_shorter_one_does() -> None:
    short = schedule(7, 60)
    assert schedule(7, 600)[: len(short)] == short


def test_every_kind_comes_once_before_any_comes_again() -> None:
    kinds = [fault.kind for fault in schedule(7, 600)]
    rounds = [kinds[at : at + len(Kind)] for at in range(0, len(kinds) - len(Kind), len(Kind))]
    assert len(rounds) > 10
    assert all(set(each) == set(Kind) for each in rounds)


def test_three_minutes_have_every_kind_several_times() -> None:
    for seed in range(20):
        kinds = [fault.kind for fault in schedule(seed, 180)]
        assert all(kinds.count(kind) >= 3 for kind in Kind)


def test_faults_are_in_order_within_the_run_and_within_their_bounds() -> None:
    faults = schedule(7, 600)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(0 < fault.at < 600 for fault in faults)
    for fault in faults:
        least, most = LASTS.get(fault.kind, (0, 0))
        assert least <= fault.seconds <= most
        assert fault.slot in SLOTS


def test_the_veteran_is_never_replaced_and_all_others_are() -> None:
    replaced = {fault.slot for fault in schedule(7, 600) if fault.kind in REPLACING}
    assert replaced == set(SLOTS) - {VETERAN}
