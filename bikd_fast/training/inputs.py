"""What a micro-batch brings to the objective: simulated defects, frozen features, and the divisors of means over positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from bikd_kernels import region_counts, region_maps

from bikd_fast.config import RunConfig
from bikd_fast.models.detector import Detector
from bikd_fast.simulation import Simulator
from bikd_fast.training.distillation import Inputs
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.pool import Pool
from bikd_fast.training.sampling import Batch
from bikd_fast.training.schedule import Phase
from bikd_fast.training.traffic import Traffic

Counts = list[torch.Tensor]


class InputMaker:
    """Makes the :class:`Inputs` of micro-batches, without gradients.

    Args:
        low: the type that the whole module is cast to; None where it stays float32.
        traffic: where the wait for other ranks is counted.
    """

    def __init__(
        self,
        config: RunConfig,
        detector: Detector,
        pool: Pool,
        simulator: Simulator,
        ranks: Ranks,
        low: torch.dtype | None,
        traffic: Traffic,
    ) -> None:
        self.config, self.detector, self.pool, self.simulator = config, detector, pool, simulator
        self.ranks, self.low, self.traffic = ranks, low, traffic

    def __call__(
        self, batch: Batch, now: Phase, pictures: torch.Tensor | None = None, others: torch.Tensor | None = None
    ) -> Inputs:
        """Of one micro-batch; ``pictures`` and ``others`` as :meth:`Pool.fetch` gives them, or from the pool."""
        return self._make(batch, now, pictures, others, self._over_ranks)

    def local(self, batch: Batch, now: Phase) -> Inputs:
        """The same with this rank's own counts; :meth:`over_ranks` does the rest."""
        return self._make(batch, now, None, None, lambda counts: lambda: counts)

    def over_ranks(self, inputs: Inputs) -> Inputs:
        """``inputs`` of :meth:`local` with the counts over all ranks."""
        names = [name for name in ("counts", "share_counts") if getattr(inputs, name) is not None]
        if self.ranks.world == 1 or not names:
            return inputs
        whole = dict(zip(names, self._over_ranks([getattr(inputs, name) for name in names])()))
        return replace(inputs, counts=whole.get("counts"), share_counts=whole.get("share_counts"))

    def _make(
        self,
        batch: Batch,
        now: Phase,
        pictures: torch.Tensor | None,
        others: torch.Tensor | None,
        send: Callable[[Counts], Callable[[], Counts]],
    ) -> Inputs:
        if pictures is None:
            pictures = self.pool.load(batch.index)
        backbone = self.detector.backbone
        clean = self.pool.clean(batch.index, pictures)
        head = self.detector.head is not None and now.head
        learns = now.backward or head or self.config.objective.forward_corrupt > 0  # from simulated defects
        if not learns and self.config.simulation.nuisance == 0:
            return Inputs(clean, None, self._lowered(backbone.normalise(pictures)), None, keys=batch.keys)
        made = self.simulator(pictures, batch.index.to(self.ranks.device), batch.keys.to(self.ranks.device), others)
        nuisance = self._lowered(backbone.normalise(made.nuisance))
        if not learns:
            return Inputs(clean, None, nuisance, None, keys=batch.keys)
        inputs = Inputs(clean, None, nuisance, self._lowered(backbone.normalise(made.corrupted)), keys=batch.keys)
        counts = []
        if now.backward:
            inputs.regions = region_maps(made.mask, [(f.shape[-2], f.shape[-1]) for f in clean])
            counts.append(region_counts(inputs.regions).float())
        if head:
            inputs.share = F.adaptive_avg_pool2d(made.mask.float(), (clean[0].shape[-2], clean[0].shape[-1]))
            clear = (inputs.share == 0).sum() + inputs.share.numel()  # the clean pictures count as normal everywhere
            counts.append(torch.stack([clear, (inputs.share >= 0.25).sum()]).float())
        arrive = send(counts)  # they travel while the frozen backbone computes
        if now.backward or head or self.detector.student.reads != "image":
            inputs.corrupt = self.pool.frozen(made.corrupted)
        counts = arrive()
        if now.backward:
            inputs.counts = counts[0]
        if head:
            inputs.share_counts = counts[-1]
        return inputs

    def _lowered(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures if self.low is None else pictures.to(self.low)

    def _over_ranks(self, counts: Counts) -> Callable[[], Counts]:
        """Divisors of means over positions: over all ranks, divided by their number because gradients are averaged.

        Sends them off at once; what is returned waits for them.
        """
        if self.ranks.world == 1 or not counts:
            return lambda: counts
        together = torch.cat([c.flatten() for c in counts])
        work = dist.all_reduce(together, async_op=True)

        def arrive() -> Counts:
            self.traffic.timed(work.wait)()
            parts = (together / self.ranks.world).split([c.numel() for c in counts])
            return [part.view_as(c) for part, c in zip(parts, counts)]

        return arrive
