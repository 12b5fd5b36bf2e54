"""Hashes passwords outside of the event loop, few at a time: each takes 64 MiB and a processor."""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException

from catalog.language import _

AT_ONCE = 2
MAX_WAITING = 32
Result = TypeVar("Result")


class Hashing:
    """Runs functions of `catalog.passwords` in turn."""

    def __init__(self):
        self._limiter = CapacityLimiter(AT_ONCE)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """The function's result.

        Raises:
            HTTPException: 503 if too many wait.
        """
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise HTTPException(503, _("too many people sign in at once; try again in a few seconds"))
        return await to_thread.run_sync(function, *arguments, limiter=self._limiter)
