"""The loop: one detector from one set of good pictures."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bikd_fast.config import RunConfig
from bikd_fast.models.detector import Detector
from bikd_fast.simulation import Simulator, estimate_foreground
from bikd_fast.training import checkpoint, state, user_config
from bikd_fast.training import engine as engines
from bikd_fast.training.after import Glance
from bikd_fast.training.agreement import Agreement, alike
from bikd_fast.training.bad_steps import BadSteps, TrainingError, guard
from bikd_fast.training.distillation import Distillation
from bikd_fast.training.distributed import Ranks, Terminated, termination
from bikd_fast.training.graphs import Graphs, wanted
from bikd_fast.training.inputs import InputMaker
from bikd_fast.training.kept import NOTHING, Kept
from bikd_fast.training.log import Log
from bikd_fast.training.mirrors import group_numbers, natural_copies, rounds, sampled, with_copies
from bikd_fast.training.pool import Pool
from bikd_fast.training.rates import Rates
from bikd_fast.training.sampling import Batch, Sampler
from bikd_fast.training.schedule import Phase, phase
from bikd_fast.training.streaming import Stream


class Trainer:
    """Trains one detector; every step is a pure function of (weights, optimizer state, step number).

    Args:
        config: the run.
        pictures: uint8 (M, 3, S, S), all good; or a stream of them.
        names: M names, for messages.
        ranks: this process among all.
        folder: where log.jsonl and checkpoints/ go.
        settings: fingerprint of what the training depends on; only checkpoints that bear it are taken up.
        textures: uint8 (K, 3, S, S) of a texture folder, or None.
        held_out: uint8 (N, 3, S, S) good pictures that are not trained on; a few of them are looked at where a line is logged.
        kept: what trainings before on the same pictures have computed.
        categories: M names of the categories that the pictures are of; one without. Objects and natural copies are found
            category by category.
    """

    def __init__(
        self,
        config: RunConfig,
        pictures: torch.Tensor | Stream,
        names: list[str],
        ranks: Ranks,
        folder: Path,
        settings: str = "",
        textures: torch.Tensor | None = None,
        held_out: torch.Tensor | None = None,
        kept: Kept = NOTHING,
        categories: Sequence[str] = (),
    ) -> None:
        user = user_config.read(config.deepspeed_config)
        training = user_config.settle(config.training, user, ranks.world, ranks.device.type)
        config = replace(config, training=training)
        torch.manual_seed(config.seed)
        self.config, self.ranks, self.user = config, ranks, user
        self.checkpoints, self.settings = folder / "checkpoints", settings
        self.log_label = f"{folder.name}: " if ranks.places > 1 else ""
        self.detector = Detector(config.model, config.map, config.data.image_size)
        self.detector.backbone.load(config.model.weights)
        self.detector.to(ranks.device)
        self.detector.backbone.to(memory_format=torch.channels_last)
        self.low = engines.low_precision(user)
        self.dtype = self.low or engines.precision(training, ranks.device)
        categories = categories or [""] * len(names)
        groups = group_numbers(categories)
        if config.data.copies:
            pictures, names, groups = self._with_copies(pictures, names, groups, list(dict.fromkeys(categories)), kept)
        self.pool = Pool(pictures, self.detector.backbone, ranks.device, self.dtype, kept=kept)
        whole = None if self.pool.stream is None else len(self.pool)
        self.simulator = Simulator(
            config.simulation, self.pool.pictures, None, textures, whole,
            lambda pool, of: kept(lambda: estimate_foreground(pool, of), "foreground", pool, of), groups,
        )  # fmt: skip
        self.sampler = Sampler(len(pictures), training.batch_size, config.seed, ranks.rank, ranks.world, training.accumulation)
        self.engine = self._engine()
        self.rates = Rates(self.engine, training)
        self.bad = BadSteps(ranks, names, training.max_bad_steps, engines.take_over_clipping(self.engine))
        guard(self.engine.basic_optimizer, self.bad)
        self.agreement = Agreement(ranks)
        self.step = 0
        self.good: Path | None = None  # the last checkpoint written or taken up
        if config.resume != "never":
            self._take_up()
        alike(ranks, settings=settings, number_of_pictures=len(names), step_to_go_on_from=self.step)
        self.log = Log(folder / "log.jsonl", training, ranks, self.step, self.log_label)
        self.log.traffic.attach()
        self._inputs = InputMaker(config, self.detector, self.pool, self.simulator, ranks, self.low, self.log.traffic)
        parts = wanted(training, ranks.device, engines.zero_stage(user), self.low, self.pool.stream is not None)
        self.graphs = Graphs(parts, self._inputs, self.engine, self._say)
        self.saved = time.monotonic()
        self.glance = Glance(self.detector, None if self.apart or held_out is None else held_out)

    def _with_copies(
        self, pictures: torch.Tensor | Stream, names: list[str], groups: torch.Tensor, labels: list[str], kept: Kept
    ) -> tuple[torch.Tensor | Stream, list[str], torch.Tensor]:
        backbone, natural = self.detector.backbone, []
        for label, rows in zip(labels, sampled(groups)):
            some = (pictures.rows(rows) if isinstance(pictures, Stream) else pictures[rows]).to(self.ranks.device)
            natural.append(kept(partial(natural_copies, some, backbone), "natural copies", some, backbone))
            if natural[-1] and self.ranks.first:
                of = f" of {label}" if len(labels) > 1 else ""
                print(f"  copies{of} that the pictures themselves show to be natural: {', '.join(natural[-1])}", file=sys.stderr)
        copies = rounds(natural)
        more = pictures.with_copies(copies, groups) if isinstance(pictures, Stream) else with_copies(pictures, copies, groups)
        return more, names * (1 + len(copies)), groups.repeat(1 + len(copies))

    def _engine(self):
        module = Distillation(self.detector.adapter, self.detector.student, self.config.objective, self.detector.head)
        self.apart = self.low is not None or engines.zero_stage(self.user) == 3
        if self.apart:  # DeepSpeed casts or scatters what it trains; the detector gets the weights back at the end
            module = copy.deepcopy(module)
        if self.config.training.compile:
            module.student.compile()
        return engines.build(module, self.config.training, self.ranks, self.dtype, self.user)

    def train(self, until: int | None = None) -> Detector:
        """Run the remaining steps; returns the detector, in eval mode, not yet calibrated.

        Args:
            until: pause after so many steps of the whole, with a checkpoint that another trainer goes on from.

        Raises:
            TrainingError: training.max_bad_steps steps in a row had a loss that is not finite, or fp16 found no loss scale.
            Terminated: SIGTERM, on any rank; a checkpoint of the step just done is there.
        """
        training, begun = self.config.training, self.step
        end = self.log.until = training.steps if until is None else min(until, training.steps)
        self.engine.train()
        if self.pool.stream is not None:
            self.pool.stream.begin(self.sampler, training.steps, pin=self.ranks.device.type == "cuda")
        termination.deferred = True
        try:
            while self.step < end:
                now = phase(self.step, training, self.config.objective, self.detector.adapter is not None, self.rates.ours)
                self._step(now)
                self.step += 1
                self._after_step()
            self._look_back()
            self.log.bad_steps = self.bad.count
            self.agreement.decided()
            self.agreement.wish(stop=termination.wished)
            self._stop_if_told(self.agreement.decided())
            self.came_to = self.log.conclude()
            if end < training.steps or (begun < end and training.checkpoint_seconds > 0):  # killed while calibrating: done training
                self._save()
        finally:
            termination.deferred = False
            if self.pool.stream is not None:
                self.pool.stream.end()
        termination.heed()  # a wish that came after the last agreement
        weights = state.parameters(self.engine.module) if self.apart else {}
        self.graphs.clear()
        self.engine.destroy()
        if self.apart:
            trained = Distillation(self.detector.adapter, self.detector.student, self.config.objective, self.detector.head)
            trained.load_state_dict(weights)
        return self.detector.eval()

    def _step(self, now: Phase) -> None:
        rate = self.rates.set(self.step, now)
        batches = self.sampler.batches(self.step)
        for micro, batch in enumerate(batches):
            started = time.perf_counter()
            fetched = (None, None) if self.graphs.load else self.pool.fetch(self.step, micro, batch)
            loaded = time.perf_counter()
            inputs = self.graphs.inputs(batch, now, *fetched)
            loss, terms = self.graphs.forward(inputs, now)
            self.bad.add(loss)
            self.engine.backward(loss)
            if micro == len(batches) - 1:
                self.bad.settle(engines.whole_gradients(self.engine))
            self._engines_step(batches)
            self.bad.overflowed(self.engine.optimizer)
            self.log.add(loss, terms, loaded - started, time.perf_counter() - loaded, len(batch.index) * self.ranks.world)
        self._look_back()
        self.bad.remember(self.step, batches)
        self.log.bad_steps = self.bad.count
        found = self.glance() if self.ranks.first and self.log.due(self.step) else {}
        row = self.log.flush(self.step, now, rate, found, engines.scaling(self.engine))
        engines.show(self.engine, row, (self.step + 1) * self.config.training.batch_size)

    def _engines_step(self, batches: list[Batch]) -> None:
        try:
            self.engine.step()
        except Exception as error:
            if "loss scale already at minimum" not in str(error):  # DeepSpeed raises a bare Exception
                raise
            stopped = self.bad.exhausted(self.step, batches, f"{self.engine.optimizer.loss_scale:g}")
            raise self._with_checkpoint(stopped) from error

    def _with_checkpoint(self, error: TrainingError) -> TrainingError:
        return TrainingError(f"{error} The last good checkpoint: {self.good or 'none was written'}.")

    def _look_back(self) -> None:
        """What became of the step before: name a skipped one, stop after too many."""
        try:
            message = self.bad.look_back()
        except TrainingError as error:
            raise self._with_checkpoint(error) from error
        if message:
            self._say(message)

    def _take_up(self) -> None:
        """Go on from the newest good checkpoint of these settings, if there is one."""
        found = checkpoint.newest(self.checkpoints, self.settings)
        for warning in found.warnings:
            self._say(f"checkpoint: {warning}")
        if found.path is None:
            return
        state.restore(found.tensors, self.engine.module, self.engine.optimizer, found.about.get("optimizer", ""))
        self.step, self.good = found.step, found.path
        self.engine.global_samples = found.step * self.config.training.batch_size  # its monitors count by them
        self.bad.count, self.bad.in_a_row = found.about.get("bad_steps", (0, 0))
        self.engine.skipped_steps = found.about.get("overflowed_steps", 0)
        self._say(f"going on from step {self.step}")

    def _after_step(self) -> None:
        """Save when rank 0's clock says so, save and stop when any rank was told to: all ranks decide alike, a step late."""
        decided = self.agreement.decided()
        self._stop_if_told(decided)
        if decided.get("save") and self.step < self.config.training.steps:
            self._save()
        seconds = self.config.training.checkpoint_seconds
        due = self.ranks.first and seconds > 0 and time.monotonic() - self.saved >= seconds
        self.agreement.wish(stop=termination.wished, save=due)

    def _stop_if_told(self, decided: dict[str, bool]) -> None:
        if decided.get("stop"):
            self._save()
            self._say(f"SIGTERM: stopped after step {self.step}; the same command goes on from {self.good}.")
            raise Terminated(agreed=True)

    def _save(self) -> None:
        """Every rank brings its share of the state, rank 0 writes."""
        self._look_back()  # the step just done is counted
        tensors, optimizer = {}, self.engine.optimizer
        if self.ranks.first or engines.zero_stage(self.user) > 0:
            tensors = state.state(self.engine.module, optimizer)
        if self.ranks.first:
            bad, overflowed = (self.bad.count, self.bad.in_a_row), self.engine.skipped_steps
            about = {"optimizer": state.kind(optimizer), "bad_steps": bad, "overflowed_steps": overflowed}
            keep = self.config.training.keep_checkpoints
            checkpoint.write(self.checkpoints, self.step, tensors, self.settings, keep, about)
        self.good, self.saved = checkpoint.path_of(self.checkpoints, self.step), time.monotonic()
        if self.ranks.watch is not None:
            self.ranks.watch.hint = f"The last good checkpoint: {self.good}."

    def _say(self, text: str) -> None:
        if self.ranks.first:
            print(f"  {self.log_label}{text}", file=sys.stderr, flush=True)
