"""The budget of bytes that came in and are not handled yet."""

import random

from app.server.unfinished import NOTED_FROM, Unfinished


class Client:
    """A connection that holds what it is told to."""

    def __init__(self, budget: Unfinished) -> None:
        self._budget = budget
        self.is_shed = False

    def hold(self, size: int) -> None:
        self._budget.hold(self, size)

    def shed(self) -> None:
        assert not self.is_shed
        self.is_shed = True


def test_whoever_holds_most_goes_first() -> None:
    shed: list[None] = []
    budget = Unfinished(400_000, lambda: shed.append(None))
    small, large, last = (Client(budget) for _ in range(3))
    small.hold(40_000)
    large.hold(320_000)
    assert not shed
    last.hold(80_000)
    assert (small.is_shed, large.is_shed, last.is_shed) == (False, True, False)
    assert len(shed) == 1
    assert budget.bytes == 120_000


def test_flood_of_requests_ends_no_sockets_and_the_other_way_round() -> None:
    budget = Unfinished(1_000_000, int)
    socket, requests = Client(budget), [Client(budget) for _ in range(20)]
    socket.hold(200_000)
    for request in requests:
        budget.hold(request, 100_000, is_request=True)
    assert not socket.is_shed
    assert sum(request.is_shed for request in requests) == 12
    sockets = [Client(budget) for _ in range(20)]
    socket.hold(0)
    for each in sockets:
        each.hold(60_000)
    assert sum(request.is_shed for request in requests) == 15
    assert sum(each.is_shed for each in sockets) == 12


def test_little_does_not_count() -> None:
    budget = Unfinished(100, int)
    client = Client(budget)
    client.hold(NOTED_FROM - 1)
    assert budget.bytes == 0
    assert not client.is_shed


def test_sum_is_what_is_held_and_never_above_the_limit() -> None:
    rng = random.Random(3)
    budget = Unfinished(10 * NOTED_FROM, int)
    clients = [Client(budget) for _ in range(40)]
    held = dict.fromkeys(clients, 0)
    for _ in range(5000):
        client = rng.choice(clients)
        if client.is_shed:
            continue
        held[client] = rng.choice([0, NOTED_FROM, 2 * NOTED_FROM, rng.randrange(5 * NOTED_FROM)])
        client.hold(held[client])
        for other in clients:
            if other.is_shed:
                held.pop(other, None)
        assert budget.bytes == sum(size for size in held.values() if size >= NOTED_FROM)
        assert budget.bytes <= 10 * NOTED_FROM
    for client in held:
        client.hold(0)
    assert budget.bytes == 0
