"""The budget of what clients that compress may refer back to."""

from app.server.deflate import ASKED_WINDOW, FULL_WINDOW
from app.server.windows import Windows


class Client:
    """A connection whose window is as large as it is told to be."""

    def __init__(self, budget: Windows) -> None:
        self._budget = budget
        self.is_shed = False

    def hold(self, size: int) -> None:
        self._budget.hold(self, size)

    def shed(self) -> None:
        assert not self.is_shed
        self.is_shed = True


def test_small_windows_do_not_count() -> None:
    budget = Windows(100, int)
    client = Client(budget)
    client.hold(ASKED_WINDOW)
    assert (budget.bytes, client.is_shed, budget.has_room) == (0, False, True)


def test_from_half_of_the_limit_on_there_is_no_room_for_newcomers() -> None:
    budget = Windows(4 * FULL_WINDOW, int)
    first, second = Client(budget), Client(budget)
    has_room = []
    for client, size in ((first, FULL_WINDOW), (second, FULL_WINDOW), (first, 0)):
        client.hold(size)
        has_room.append(budget.has_room)
    assert has_room == [True, False, True]


def test_who_has_the_largest_goes_first_and_of_several_the_last_one() -> None:
    shed: list[None] = []
    budget = Windows(10 * FULL_WINDOW, lambda: shed.append(None))
    old, attackers = Client(budget), [Client(budget) for _ in range(40)]
    old.hold(FULL_WINDOW)
    small = Client(budget)
    small.hold(FULL_WINDOW - 1)
    for attacker in attackers:
        attacker.hold(FULL_WINDOW // 2)
        if not attacker.is_shed:
            attacker.hold(FULL_WINDOW)
    assert not old.is_shed
    assert not small.is_shed
    assert sum(attacker.is_shed for attacker in attackers) == len(shed) == 32
    assert budget.bytes <= 10 * FULL_WINDOW
    for client in (old, small, *attackers):
        client.hold(0)
    assert budget.bytes == 0
