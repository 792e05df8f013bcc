"""Working ahead on threads where the future is known: step numbers in, what the steps need out, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """``make(step)`` of the steps to come, made on threads before they are asked for.

    What comes out does not depend on the threads: ``make`` is a function of the step, and steps are handed out by number.

    Args:
        make: called on any thread; an error in it is raised by :meth:`take` for that step.
        stop: the first step that will not come.
        depth: steps held at most, made or being made.
    """

    def __init__(self, make: Callable[[int], Made], stop: int, depth: int, threads: int) -> None:
        self.make, self.stop, self.depth = make, stop, depth
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
        self._coming: deque[tuple[int, Future[Made]]] = deque()

    def take(self, step: int) -> Made:
        """What ``step`` needs; steps before it are forgotten, those behind it are on their way."""
        while self._coming and self._coming[0][0] != step:
            self._coming.popleft()[1].cancel()
        following = self._coming[-1][0] + 1 if self._coming else step
        for coming in range(following, min(max(self.stop, step + 1), step + self.depth)):
            self._coming.append((coming, self._pool.submit(self.make, coming)))
        return self._coming.popleft()[1].result()

    def close(self) -> None:
        """Let go of what was not asked for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
