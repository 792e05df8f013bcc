"""The loop: one detector from one set of good pictures."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from bikd_kernels import region_counts, region_maps

from bikd_fast.config import RunConfig
from bikd_fast.errors import UserError
from bikd_fast.models.detector import Detector
from bikd_fast.simulation import Simulator
from bikd_fast.training import checkpoint
from bikd_fast.training import engine as engines
from bikd_fast.training.distillation import Distillation, Inputs
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.log import Log
from bikd_fast.training.pool import Pool
from bikd_fast.training.sampling import Batch, Sampler
from bikd_fast.training.schedule import Phase, phase


class TrainingError(UserError):
    """Training cannot go on; the message says why and what is left of it."""


class Trainer:
    """Trains one detector; every step is a pure function of (weights, optimizer state, step number).

    Args:
        config: the run.
        pictures: uint8 (M, 3, S, S), all good.
        names: M names, for messages.
        ranks: this process among all.
        folder: where log.jsonl and checkpoints/ go.
        settings: fingerprint of what the training depends on; only checkpoints that bear it are taken up.
        textures: uint8 (K, 3, S, S) of a texture folder, or None.
    """

    def __init__(
        self,
        config: RunConfig,
        pictures: torch.Tensor,
        names: list[str],
        ranks: Ranks,
        folder: Path,
        settings: str = "",
        textures: torch.Tensor | None = None,
    ) -> None:
        training = config.training
        torch.manual_seed(config.seed)
        self.config, self.ranks, self.names = config, ranks, names
        self.checkpoints, self.settings = folder / "checkpoints", settings
        self.detector = Detector(config.model, config.map, config.data.image_size)
        self.detector.backbone.load(config.model.weights)
        self.detector.to(ranks.device)
        self.detector.backbone.to(memory_format=torch.channels_last)
        self.dtype = engines.precision(training, ranks.device)
        self.pool = Pool(pictures, self.detector.backbone, ranks.device, self.dtype)
        self.simulator = Simulator(config.simulation, self.pool.pictures, None, textures)
        self.sampler = Sampler(len(pictures), training.batch_size, config.seed, ranks.rank, ranks.world, training.accumulation)
        module = Distillation(self.detector.adapter, self.detector.student, config.objective, self.detector.head)
        self.user = engines.read_user_config(config.deepspeed_config)
        self.engine = engines.build(module, training, ranks, self.dtype, self.user)
        self.step = 0
        if config.resume == "auto":
            self._take_up()
        self.log = Log(folder / "log.jsonl", training, ranks, self.step)
        self.saved = time.monotonic()

    def train(self) -> Detector:
        """Run the remaining steps; returns the detector, in eval mode, not yet calibrated."""
        training = self.config.training
        self.engine.train()
        while self.step < training.steps:
            now = phase(self.step, training, self.config.objective, self.detector.adapter is not None)
            self._step(now)
            self.step += 1
            self._keep()
        self.engine.destroy()
        return self.detector.eval()

    def _step(self, now: Phase) -> None:
        training = self.config.training
        if "scheduler" not in self.user:
            rates = {"student": training.lr_student * now.student, "teacher": training.lr_teacher * now.teacher}
            engines.set_rates(self.engine, rates)
        for batch in self.sampler.batches(self.step):
            started = time.perf_counter()
            inputs = self._inputs(batch, now)
            prepared = time.perf_counter()
            loss, terms = self.engine(inputs, now.beta)
            self.engine.backward(loss)
            self.engine.step()
            self.log.add(loss, terms, prepared - started, time.perf_counter() - prepared, len(batch.index) * self.ranks.world)
        self.log.flush(self.step, now)

    def _take_up(self) -> None:
        """Go on from the newest good checkpoint of these settings, if there is one."""
        found = checkpoint.newest(self.checkpoints, self.settings)
        if found is None:
            return
        step, tensors, warnings = found
        if self.ranks.first:
            for warning in warnings:
                print(f"checkpoint: {warning}", file=sys.stderr)
        if step >= 0:
            checkpoint.restore(tensors, self.engine.module, self.engine.optimizer)
            self.step = step
            if self.ranks.first:
                print(f"  going on from step {step}", file=sys.stderr)

    def _keep(self) -> None:
        """Write a checkpoint when one is due; rank 0 watches the clock, and only it writes."""
        seconds = self.config.training.checkpoint_seconds
        if not self.ranks.first or self.step == self.config.training.steps or seconds <= 0:
            return
        if time.monotonic() - self.saved >= seconds:
            keep = self.config.training.keep_checkpoints
            checkpoint.save(self.checkpoints, self.step, self.engine.module, self.engine.optimizer, self.settings, keep)
            self.saved = time.monotonic()

    def _inputs(self, batch: Batch, now: Phase) -> Inputs:
        pictures = self.pool.load(batch.index)
        made = self.simulator(pictures, batch.index.to(self.ranks.device), batch.keys.to(self.ranks.device))
        backbone = self.detector.backbone
        clean = self.pool.clean(batch.index, pictures)
        head = self.detector.head is not None and now.name != "forward"
        needs_corrupt = now.backward or head or self.detector.student.reads == "features"
        corrupt = self.pool.frozen(made.corrupted) if needs_corrupt else None
        inputs = Inputs(clean, corrupt, backbone.normalise(made.nuisance), backbone.normalise(made.corrupted))
        if now.backward:
            inputs.regions = region_maps(made.mask, [(f.shape[-2], f.shape[-1]) for f in clean])
            inputs.counts = self._over_ranks(region_counts(inputs.regions).float())
        if head:
            inputs.share = F.adaptive_avg_pool2d(made.mask.float(), clean[0].shape[-2:])
            clear = (inputs.share == 0).sum() + inputs.share.numel()  # the clean pictures count as normal everywhere
            inputs.share_counts = self._over_ranks(torch.stack([clear, (inputs.share >= 0.25).sum()]).float())
        return inputs

    def _over_ranks(self, counts: torch.Tensor) -> torch.Tensor:
        """Divisors of means over positions: over all ranks, divided by their number because gradients are averaged."""
        if self.ranks.world > 1:
            dist.all_reduce(counts)
            counts /= self.ranks.world
        return counts

