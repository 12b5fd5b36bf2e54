"""Delays guesses of passwords, by the name that is tried and by the address that tries it."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

SIZE = 10_000  # keys; the one that was tried least recently is forgotten first
FORGET_SECONDS = 3600  # after the last attempt
_EXPONENT = 30  # of the longest delay that is computed


class Throttle:
    """Counts attempts by key; each after the first few has to wait twice as long as the one before.

    Args:
        free: attempts without a delay.
        longest: seconds of the longest delay.
        clock: seconds that only grow.
    """

    def __init__(self, free: int, longest: float, clock: Callable[[], float] = time.monotonic):
        self._free, self._longest, self._clock = free, longest, clock
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # number, time of the last one

    def wait(self, key: str) -> float:
        """Seconds until the next attempt; 0 if it may come now."""
        count, last = self._attempts.get(key, (0, 0.0))
        if count < self._free:
            return 0.0
        delay = min(self._longest, 2.0 ** min(count - self._free, _EXPONENT))
        return max(0.0, last + delay - self._clock())

    def count(self, key: str) -> None:
        """Counts an attempt, before it is known whether it succeeds: many may come at once."""
        now = self._clock()
        count, last = self._attempts.pop(key, (0, now))
        self._attempts[key] = (count + 1 if now - last < FORGET_SECONDS else 1, now)
        if len(self._attempts) > SIZE:
            self._attempts.popitem(last=False)

    def take_back(self, key: str) -> None:
        """Takes one attempt back."""
        count, last = self._attempts.get(key, (0, 0.0))
        if count:
            self._attempts[key] = (count - 1, last)

    def forget(self, key: str) -> None:
        """Forgets all attempts of a key."""
        self._attempts.pop(key, None)


class Attempts:
    """Attempts to sign in.

    Attempts for a name are counted for each address, and more loosely for all: guesses from many addresses
    must not keep its owner out, who passes from where the right password came before. Many people may share
    an address, so it has more attempts for all names, and then a longer delay.
    """

    def __init__(self):
        self._pairs = Throttle(free=5, longest=60)  # of a name and an address
        self._names = Throttle(free=50, longest=60)
        self._addresses = Throttle(free=20, longest=900)
        self._known: OrderedDict[str, None] = OrderedDict()  # pairs that have succeeded

    def begin(self, name: str, address: str) -> float:
        """Counts an attempt; if it has to wait, returns for how many seconds, and doesn't count it."""
        address = network(address)
        pair = _pair(name, address)
        counted = [(self._pairs, pair), (self._addresses, address)]
        if pair not in self._known:
            counted.append((self._names, name))
        wait = max(throttle.wait(key) for throttle, key in counted)
        if not wait:
            for throttle, key in counted:
                throttle.count(key)
        return wait

    def succeeded(self, name: str, address: str) -> None:
        """An attempt was right. The address keeps its others: they may be guesses for other names."""
        address = network(address)
        pair = _pair(name, address)
        self._pairs.forget(pair)
        self._addresses.take_back(address)
        if pair not in self._known:
            self._names.take_back(name)
            self._known[pair] = None
            if len(self._known) > SIZE:
                self._known.popitem(last=False)


def _pair(name: str, address: str) -> str:
    return f"{address} {name}"


def network(address: str) -> str:
    """An address; of IPv6 the /64 network, which one customer has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
