"""What was delivered lately, so that a message that comes twice is delivered once."""

from array import array
from collections import deque
from hashlib import blake2b

TTL = 600.0
ENTRIES = 100_000
"""Entries of each memory. All three full take 43 to 59 MB, by how many share them; at the worst 63 MB."""
AS_IT_IS = 47
"""Characters of a text that is kept as it is: in 96 bytes, where the digest of a longer one takes 64."""
SENT_AS_IT_IS = 73
"""Characters of a sender and an id, enough for two UUIDs: most clients send no longer ones, which need no digest."""
FEW = 64
"""Keys that a sharer may have before they are told from those of others."""
LANES = 2**16
SWEEP = 1.0
"""Seconds between two looks at what is too old: it is known no longer, and may take its place as long as that."""

Key = str | bytes


def _digest(text: str) -> bytes:
    """Return what is kept of a longer text. It is no text, so it is never equal to one.

    Of 128 bits: nobody can make a text with the digest of somebody else's.
    """
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _key(name: str) -> Key:
    """Return what is kept of a name where all keys are of one sharer."""
    return name if len(name) <= AS_IT_IS and name.isascii() else _digest(name)


class _Keys:
    """Keys in the order of their time. `keys` and `times` are in step."""

    __slots__ = ("are_all", "keys", "noted", "times")

    def __init__(self, *, are_all: bool = False) -> None:
        self.are_all = are_all
        """True where their sharer has no others among the few of all."""
        self.noted: set[Key] = set()
        self.keys: deque[Key] = deque()  # an OrderedDict takes half as much again for all of it
        self.times: deque[float] = deque()

    def add(self, key: Key, now: float) -> None:
        """Add a key that is new."""
        self.noted.add(key)
        self.keys.append(key)
        self.times.append(now)

    def forget_oldest(self) -> None:
        """Forget the oldest, of one or more."""
        self.noted.remove(self.keys.popleft())
        self.times.popleft()

    def expire(self, through: float) -> int:
        """Forget what is from this time or before it; answers how many."""
        count = 0
        while self.times and self.times[0] <= through:
            self.forget_oldest()
            count += 1
        return count


class RecentKeys:
    """A memory of keys, bounded in time (`ttl` seconds) and in number (`limit`; then the oldest are forgotten)."""

    __slots__ = ("_all", "_limit", "_noted", "_times", "_ttl")

    def __init__(self, ttl: float, limit: int) -> None:
        self._ttl = ttl
        self._limit = limit
        self._all = _Keys()
        self._noted = self._all.noted
        self._times = self._all.times

    def note(self, key: Key, now: float) -> bool:
        """Remember a key; answers whether it is new. `now` is in seconds and never goes back."""
        if self._times and self._times[0] <= now - self._ttl:
            self._all.expire(now - self._ttl)
        if key in self._noted:
            return False
        if len(self._noted) >= self._limit:
            self._all.forget_oldest()
        self._all.add(key, now)
        return True

    def __len__(self) -> int:
        return len(self._noted)


class SharedKeys:
    """A memory of many sharers' keys. When it is full, who has most forgets its own oldest.

    `limit / FEW` sharers may have a memory of their own: whoever comes while less than half of these are taken, and who
    has more than a few keys. The few keys of each other are in one memory for all of them, and go when nobody has more,
    the oldest first. How many a sharer has there is counted by lane, as a number for each would take more than the
    keys. Two sharers of one lane count as one, which does no harm: one of them has its own memory early.
    """

    __slots__ = (
        "_as_it_is",
        "_expire_at",
        "_few",
        "_in_lane",
        "_lanes",
        "_limit",
        "_most",
        "_own",
        "_rounds",
        "_total",
        "_ttl",
    )

    def __init__(self, ttl: float, limit: int, as_it_is: int = AS_IT_IS) -> None:
        self._ttl = ttl
        self._limit = limit
        self._as_it_is = as_it_is
        self._total = 0
        self._few = _Keys()
        self._lanes: deque[int] = deque()  # in step with these
        self._in_lane = array("i", bytes(4 * LANES))  # how many of these each lane has
        self._own: dict[str, _Keys] = {}
        self._expire_at = 0.0
        self._most = self._few  # the one that makes room
        self._rounds = 0  # how many times it does so yet, before it is chosen anew

    def note(self, sharer: str, name: str, now: float) -> bool:
        """Remember a key; answers whether it is new for this sharer. `now` is in seconds and never goes back."""
        if now >= self._expire_at:
            self._expire(now - self._ttl)
            self._expire_at = now + SWEEP
        own = self._own.get(sharer)
        if own is None or not own.are_all:
            return self._note(own, sharer, name, now)
        # The same as below, for most messages of most services.
        key = _key(name)
        if key in own.noted and not self._has_expired(key, own, now):
            return False
        if self._total >= self._limit:
            self._make_room()
        self._total += 1
        own.noted.add(key)
        own.keys.append(key)
        own.times.append(now)
        return True

    def knows(self, sharer: str, name: str, now: float) -> bool:
        """Return whether a key was noted for this sharer, and is not too old."""
        own = self._own.get(sharer)
        if own is not None:
            key = _key(name)
            if key in own.noted and not self._has_expired(key, own, now):
                return True
        if not self._in_lane[hash(sharer) % LANES]:
            return False
        whole = self._whole(sharer, name)
        return whole in self._few.noted and not self._has_expired(whole, self._few, now)

    def _whole(self, sharer: str, name: str) -> Key:
        text = f"{sharer} {name}"
        return text if len(text) <= self._as_it_is and text.isascii() else _digest(text)

    def _note(self, own: _Keys | None, sharer: str, name: str, now: float) -> bool:
        whole = self._whole(sharer, name)
        lane = hash(sharer) % LANES
        in_lane = self._in_lane[lane]
        if in_lane and whole in self._few.noted and not self._has_expired(whole, self._few, now):
            return False
        if own is None and (not in_lane or in_lane >= FEW):
            places = self._limit // FEW
            if len(self._own) < (places if in_lane else places // 2):
                own = self._own[sharer] = _Keys(are_all=not in_lane)
        if own is None:
            if self._total >= self._limit:
                self._make_room()
            self._few.add(whole, now)
            self._lanes.append(lane)
            self._in_lane[lane] += 1
        else:
            key = _key(name)
            if key in own.noted and not self._has_expired(key, own, now):
                return False
            if self._total >= self._limit:
                self._make_room()
            own.add(key, now)
        self._total += 1
        return True

    def _has_expired(self, key: Key, keys: _Keys, now: float) -> bool:
        """Return whether a key that was found is too old, and has only not been looked at yet."""
        self._total -= self._expire_few(now - self._ttl) if keys is self._few else keys.expire(now - self._ttl)
        return key not in keys.noted

    def _make_room(self) -> None:
        """Forget one key."""
        self._rounds -= 1
        if self._rounds < 0 or not self._most.keys:
            self._choose()
        self._total -= 1
        self._most.forget_oldest()
        if self._most is self._few:
            self._in_lane[self._lanes.popleft()] -= 1

    def _choose(self) -> None:
        """Choose who makes room for a while: until another may have an eighth more, or a few hundred."""
        largest = max(self._own.values(), key=_size, default=self._few)
        most = len(largest.keys)
        self._rounds = max(FEW // 2, most // 16, len(self._own) // 4)  # so that a look at all costs each a few
        self._most = largest if most >= FEW or not self._few.keys else self._few

    def _expire_few(self, through: float) -> int:
        count = self._few.expire(through)
        for _ in range(count):
            self._in_lane[self._lanes.popleft()] -= 1
        return count

    def _expire(self, through: float) -> None:
        """Forget what is from this time or before it."""
        self._total -= self._expire_few(through)
        for sharer, own in tuple(self._own.items()):
            self._total -= own.expire(through)
            if not own.keys:
                del self._own[sharer]

    def __len__(self) -> int:
        return self._total


def _size(keys: _Keys) -> int:
    return len(keys.keys)


class Deduplicator:
    """Knows a message again by its carrier's id, its origin's sequence number, or the id that its sender gave it."""

    def __init__(self) -> None:
        self._carrier_ids = RecentKeys(TTL, ENTRIES)
        self._sequences = SharedKeys(TTL, ENTRIES)
        self._sender_ids = SharedKeys(TTL, ENTRIES, SENT_AS_IT_IS)

    def carried_before(self, carrier_id: str | None, counted: tuple[str, str] | None, now: float) -> str | None:
        """Whether this was delivered before, and by what it was known: `pubsub_id` or `sequence`.

        Where its publisher `counted` it (who, and as what), that tells all: what comes again under one carrier's id has
        one number.
        """
        if counted is not None:
            return None if self._sequences.note(*counted, now) else "sequence"
        if carrier_id is None:
            return None
        return None if self._carrier_ids.note(_key(carrier_id), now) else "pubsub_id"

    def sent_before(self, sender: str, name: str, now: float) -> bool:
        """Note what a sender sent, by its `sent_name`; return whether it had sent it before."""
        return not self._sender_ids.note(sender, name, now)

    def has_sent(self, sender: str, name: str, now: float) -> bool:
        """Return whether this was noted."""
        return self._sender_ids.knows(sender, name, now)


def sent_name(message_id: str, kind: str, channel: str | None, sub_id: str | None, user_tag: str | None) -> str:
    """Return what tells a message of a sender: its id within its type and address."""
    return f"{message_id}\n{kind}\n{channel or ''}\n{sub_id or ''}\n{user_tag or ''}"  # no name has a line end


class Publishing:
    """A message with its sender's id on its way to the fan-out and back."""

    __slots__ = ("at", "is_accepted", "is_repeat")

    def __init__(self, at: float) -> None:
        self.at = at
        self.is_accepted = False
        self.is_repeat = False
        """True: another message of the same name came out of the fan-out before this one."""


class OnTheirWay:
    """Messages that were published and have not come back yet, by sender and name: their repeats are repeats as well.

    Of more than `limit` the oldest are forgotten: a repeat of those is dropped as any, and its sender not told so.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._first: dict[bytes, Publishing] = {}

    def begin(self, sender: str, name: str, now: float) -> tuple[Publishing, Publishing | None]:
        """Note what is being published. Return it, and the one before it that is still on its way."""
        key = _digest(f"{sender} {name}")
        publishing = Publishing(now)
        first = self._first.get(key)
        if first is not None and now - first.at < TTL:
            return publishing, first
        self._first.pop(key, None)  # to the end
        self._first[key] = publishing
        if len(self._first) > self._limit:
            del self._first[next(iter(self._first))]
        return publishing, None

    def failed(self, sender: str, name: str, publishing: Publishing) -> None:
        """Forget what the fan-out did not accept."""
        key = _digest(f"{sender} {name}")
        if self._first.get(key) is publishing:
            del self._first[key]

    def came_back(self, sender: str, name: str, *, is_repeat: bool) -> None:
        """Note that it came out of the fan-out: from now on the `Deduplicator` knows it."""
        publishing = self._first.pop(_digest(f"{sender} {name}"), None)
        if publishing is not None:
            publishing.is_accepted = True
            publishing.is_repeat = is_repeat

    def __len__(self) -> int:
        return len(self._first)
