"""A whole run: data, one training a category (or one for all), calibration. What it leaves is a run folder of plain data."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bikd_fast.config import ConfigError, RunConfig
from bikd_fast.config_checks import check
from bikd_fast.data import Category, Sample, good_pictures, load_images, open_dataset
from bikd_fast.data.cache import identity
from bikd_fast.data.cache_folder import cache_folder
from bikd_fast.data.listing import require_pictures
from bikd_fast.data.store import Store
from bikd_fast.errors import UserError
from bikd_fast.files import write_text
from bikd_fast.inference.calibration import calibrate, measure_good
from bikd_fast.inference.diagnostics import TRAINING
from bikd_fast.models.detector import FILE_NAME, Detector
from bikd_fast.models.weights import WeightsError
from bikd_fast.training import user_config
from bikd_fast.training.after import diagnose, pictures_changed, record
from bikd_fast.training.agreement import alike
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.folder import alone, claim, detector_folder, fingerprint, release, run_folder
from bikd_fast.training.kept import NOTHING, Kept
from bikd_fast.training.remember import remember
from bikd_fast.training.streaming import Stream, in_memory
from bikd_fast.training.trainer import Trainer
from bikd_fast.versions import versions

HELD_OUT = 2048  # pictures at most: thresholds gain nothing from more
EFFICIENCY = 0.9  # of data-parallel training that side-by-side training has to beat (docs/scaling.md)
VERSIONS = ("bikd_fast", "torch", "triton", "torchvision", "timm", "deepspeed", "numpy")


def train(config: RunConfig, ranks: Ranks, stay: ExitStack | None = None) -> Path:
    """Train every detector of a run that is not there yet; returns the run folder.

    The same call after an interruption goes on where it stopped: finished detectors are kept, an unfinished one is taken up
    from its newest checkpoint.

    Args:
        stay: who has more to write into the run folder keeps it from other processes until this is closed.

    Raises:
        ConfigError: settings that cannot work, or a folder that holds a run of other settings or that another process trains in.
        DataError: pictures that cannot be read.
    """
    with ExitStack() as here:
        return _train(config, ranks, here if stay is None else stay)


def _train(config: RunConfig, ranks: Ranks, stay: ExitStack) -> Path:
    check(config)
    user = user_config.read(config.deepspeed_config)
    config = replace(config, training=user_config.settle(config.training, user, ranks.world, ranks.device.type))
    categories = _categories(config)
    run = run_folder(config)
    fresh = False
    if ranks.leads:
        stay.enter_context(alone(run))
        fresh = claim(run, config)
    meet(ranks)
    started, trained = time.time(), 0
    for name, group in training_groups(config, categories)[ranks.place :: ranks.places]:
        folder = detector_folder(run, config, categories, name)
        trained_before = (folder / FILE_NAME).is_file()
        alike(ranks, **{f"{name} is trained": trained_before})
        if trained_before:
            if ranks.first:
                changed = pictures_changed(folder, identity(good_pictures(group)))
                anew = ". Its good pictures have changed since: --resume never trains it anew" if changed else ""
                _say(ranks, f"{name}: already trained, kept ({folder / FILE_NAME}){anew}")
            continue
        try:
            train_one(config, name, group, folder, ranks)
        except UserError as error:
            everyones = ranks.places == 1 or isinstance(error, ConfigError | WeightsError)  # or others may still train here
            if fresh and everyones and not any(run.rglob("*.safetensors")):
                release(run)  # nothing was made: the setting can be mended
            raise
        trained += 1
    meet(ranks)
    if ranks.leads and trained:
        _write_json(run / "environment.json", environment(ranks, time.time() - started))
    return run


def side_by_side(config: RunConfig, size: int) -> bool:
    """Whether ``size`` ranks train one detector each, side by side, instead of all of them one detector after the other.

    Side by side costs no communication and leaves ranks idle at the end; data-parallel keeps all busy at :data:`EFFICIENCY`
    and needs a batch that divides.

    Raises:
        ConfigError: asked for, and there is only one detector to train.
    """
    check(config)
    choice = config.training.parallel
    if size == 1 or choice == "data":
        return False
    detectors = len(training_groups(config, _categories(config)))
    if detectors == 1 and choice == "categories":
        raise ConfigError("training.parallel: categories needs several detectors to train, and there is one. Take data.")
    if detectors == 1 or choice == "categories":
        return detectors > 1
    divides = config.training.batch_size % (size * config.training.accumulation) == 0
    return not divides or math.ceil(detectors / size) <= detectors / (size * EFFICIENCY)


def meet(ranks: Ranks) -> None:
    """Wait for every rank of the job, as long as it takes."""
    if ranks.watch is not None:
        ranks.watch.meet()


def _categories(config: RunConfig) -> list[Category]:
    return open_dataset(config.data.format, Path(config.data.root) if config.data.root else None, config.data.category)


def train_one(
    config: RunConfig,
    name: str,
    categories: Sequence[Category],
    folder: Path,
    ranks: Ranks,
    until: int | None = None,
    kept: Kept = NOTHING,
    diagnosed: bool = True,
) -> Detector:
    """Train and calibrate one detector on the good pictures of ``categories``; rank 0 writes it into ``folder``.

    Args:
        until: pause after so many steps: a checkpoint is left instead of a detector, and the same call goes on from it. What is
            returned then is not calibrated.
        kept: what trainings before in this process have computed; the detector is the same to the bit.
        diagnosed: whether to record diagnostics beside the detector.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = joint(config, categories)
    samples = good_pictures(categories)
    pictures = identity(samples)
    own, apart, shown = _pictures(config, name, samples, ranks)
    category_of = {id(sample): category.name for category in categories for sample in category.train}
    names, of = [str(sample.path) for sample in shown], [category_of[id(sample)] for sample in shown]
    good = own.some() if isinstance(own, Stream) else own  # read before anything is spent: a bad one is told at once
    textures, started = foreign_textures(config, ranks), time.perf_counter()
    if config.model.student == "bank":
        if isinstance(own, Stream):
            raise ConfigError("model.student: bank looks at all pictures at once, and they do not fit: raise data.cache_gb.")
        begun, detector, came_to = 0, remember(config, own, of, ranks, folder), {}
    else:
        settings = fingerprint(config, name, pictures)
        trainer = Trainer(whole, own, names, ranks, folder, settings, textures, held_out=apart, kept=kept, categories=of)
        begun, detector = trainer.step, trainer.train(until)
        came_to = trainer.came_to
    with kept.frozen(detector.backbone):
        measure_good(detector, good)
        if until is not None and until < whole.training.steps and config.model.student != "bank":
            return detector
        calibrate(detector, apart, good)
    seconds = time.perf_counter() - started
    detector.about |= {"categories": [c.name for c in categories], "versions": versions(VERSIONS), "seed": config.seed}
    if ranks.first:
        found = {"diagnostics": diagnose(config, detector, apart, textures)} if diagnosed else {}
        _write_json(folder / TRAINING, record(begun, seconds, ranks) | came_to | found | {"pictures": pictures})
        detector.save(folder)
    return detector


def _pictures(
    config: RunConfig, name: str, samples: Sequence[Sample], ranks: Ranks
) -> tuple[torch.Tensor | Stream, torch.Tensor, list[Sample]]:
    """(to train on, held out uint8 (N, 3, S, S), samples of the former); a stream where they would take too much memory."""
    data = config.data
    if in_memory(len(samples), data.image_size, data.cache_gb, ranks.device):
        pictures, kept, skipped = load_images(samples, data.image_size, on_bad_image=data.on_bad_image)
        for path, reason in skipped:
            _say(ranks, f"skipped {path}: {reason}")
        training, held_out = split(len(kept), data.holdout, config.seed)
        _say(ranks, f"{name}: {len(training)} pictures to train on, {len(held_out)} held out, {len(skipped)} skipped")
        return pictures[training], pictures[held_out], [kept[i] for i in training]
    folder = cache_folder(data.cache_dir)
    store = Store(samples, data.image_size, folder, data.on_bad_image)
    training, held_out = split(len(samples), data.holdout, config.seed)
    _say(ranks, f"{name}: {len(training)} pictures to train on, read while training ({folder}); {len(held_out)} held out")
    return Stream(store, training), store.many(held_out) if held_out else store.rows([]), [samples[i] for i in training]


def foreign_textures(config: RunConfig, ranks: Ranks) -> torch.Tensor | None:
    """data.textures as uint8 (K, 3, S, S) on the device: content for simulated defects; None where no folder is given."""
    if config.data.textures is None:
        return None
    samples = [Sample(path) for path in require_pictures(Path(config.data.textures), below=True)]
    return load_images(samples, config.data.image_size, on_bad_image=config.data.on_bad_image)[0].to(ranks.device)


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training, held out) positions: ``share`` of ``count`` at random, :data:`HELD_OUT` at most, at least one left to train on."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + 17)).tolist()
    out = min(round(share * count), HELD_OUT, count - 1)
    return sorted(order[out:]), sorted(order[:out])


def training_groups(config: RunConfig, categories: Sequence[Category]) -> list[tuple[str, list[Category]]]:
    """What is trained: one group a category, or one of all under the name ``shared``."""
    if config.model.shared and len(categories) > 1:
        return [("shared", list(categories))]
    return [(category.name, [category]) for category in categories]


def joint(config: RunConfig, group: Sequence[Category]) -> RunConfig:
    """``config`` as one detector for all of ``group`` trains by it: with ``training.steps`` for each category."""
    return replace(config, training=replace(config.training, steps=config.training.steps * len(group)))


def environment(ranks: Ranks, seconds: float) -> dict[str, Any]:
    """Versions, machine and wall time, for the report and for whoever reproduces the run."""
    device = torch.cuda.get_device_name() if ranks.device.type == "cuda" else (platform.processor() or platform.machine())
    return {
        "versions": versions(VERSIONS),
        "python": platform.python_version(),
        "device": device,
        "ranks": ranks.world * ranks.places,
        "side_by_side": ranks.places > 1,
        "threads": torch.get_num_threads(),
        "training_seconds": round(seconds, 2),
        "command": " ".join(sys.argv),
    }


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1))


def _say(ranks: Ranks, text: str) -> None:
    if ranks.first:
        print(text, file=sys.stderr, flush=True)
