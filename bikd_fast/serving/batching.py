"""Requests that come together go through the network together: while one batch runs, the next one gathers."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from bikd_fast.inference.prediction import run_batches
from bikd_fast.models.detector import Detector
from bikd_fast.serving.measures import Measures
from bikd_fast.serving.settings import Limits
from bikd_fast.serving.uploads import Refused


@dataclass
class _Waiting:
    square: torch.Tensor
    answer: asyncio.Future[tuple[torch.Tensor, float]]


class Batcher:
    """One queue and one thread for the network. ``start`` and ``stop`` belong to the event loop that calls ``ask``."""

    def __init__(self, detector: Detector, limits: Limits, measures: Measures) -> None:
        self.detector, self.limits, self.measures = detector, limits, measures
        self.queue: asyncio.Queue[_Waiting] = asyncio.Queue(limits.waiting)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self.task: asyncio.Task[None] | None = None
        self.failing = False

    @property
    def alive(self) -> bool:
        """Whether the loop that answers is running, and the network answered when it was last asked."""
        return self.task is not None and not self.task.done() and not self.failing

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        self.thread.shutdown(wait=True, cancel_futures=True)

    async def ask(self, square: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Map (S, S) and score of one picture uint8 (3, S, S).

        Raises:
            Refused: 503 when too many are waiting.
        """
        waiting = _Waiting(square, asyncio.get_running_loop().create_future())
        try:
            self.queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Refused(503, f"{self.limits.waiting} pictures are waiting already; try again in a moment") from None
        self.measures.waiting.set(self.queue.qsize())
        return await waiting.answer

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.queue.get()]
            while len(batch) < self.limits.batch and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            self.measures.waiting.set(self.queue.qsize())
            batch = [item for item in batch if not item.answer.done()]  # whoever asked has gone
            if not batch:
                continue
            self.measures.batch.observe(len(batch))
            try:
                with self.measures.network.time():
                    found = await loop.run_in_executor(self.thread, self._run, [item.square for item in batch])
            except Exception as error:
                self.failing = True
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_exception(error)
                continue
            self.failing = False
            for item, answer in zip(batch, found):
                if not item.answer.done():
                    item.answer.set_result(answer)

    def _run(self, squares: list[torch.Tensor]) -> list[tuple[torch.Tensor, float]]:
        return [pair for maps, scores in run_batches(self.detector, squares) for pair in zip(maps, scores.tolist())]
