"""What trials are judged on: good pictures that their training never saw, and the search's own defects on copies of them.

Judged are the held-out normals (``data.holdout``) and copies of them with defects of :mod:`bikd_fast.validation.defects`; the set
is the same for every trial. Calibration uses held-out normals too, so it is done twice, on either half of them, and each half is
judged by the detector calibrated on the other: no picture, nor any copy of it, is judged by what was fitted on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bikd_fast.config import RunConfig
from bikd_fast.data import Category, Sample, good_pictures, has_masks, load_images, load_masks, open_dataset
from bikd_fast.data.load import fit
from bikd_fast.errors import UserError
from bikd_fast.training.kept import NOTHING, Kept
from bikd_fast.training.run import split
from bikd_fast.validation.made import Validation, enough, simulated


def labelled(pictures: torch.Tensor, masks: Sequence[np.ndarray], kinds: list[str], held_out: torch.Tensor) -> Validation:
    """A user's own labelled pictures, uint8 (N, 3, S, S), with masks at that size: calibration sees all held-out normals."""
    count, more = len(pictures), len(held_out)
    blank = np.zeros((more, *pictures.shape[-2:]), bool)
    half, normals = np.repeat([0, -1], [count, more]), np.arange(count, count + more)
    every = torch.cat([pictures, held_out])
    return Validation(every, np.concatenate([np.stack(masks), blank]), half, (normals, normals), [*kinds, *["good"] * more])


def validation(
    config: RunConfig, name: str, group: Sequence[Category], labels: str | None = None, kept: Kept = NOTHING
) -> Validation:
    """The validation set of a detector: the good pictures that :func:`bikd_fast.training.run.train_one` holds out, with defects
    of the search's own; or the labelled pictures of ``labels``.

    Raises:
        UserError: too few held-out pictures, or ``labels`` has no defects with masks.
    """
    data = config.data

    def make() -> Validation:
        samples = good_pictures(group)
        if data.on_bad_image == "error":
            _, held_out = split(len(samples), data.holdout, config.seed)
            apart, _, _ = load_images([samples[i] for i in held_out], data.image_size)
        else:
            pictures, good, _ = load_images(samples, data.image_size, on_bad_image="skip")
            apart = pictures[split(len(good), data.holdout, config.seed)[1]]
        return simulated(name, apart) if labels is None else _own(config, name, group, labels, apart)

    # a data set is not expected to change under a search
    return kept(make, "validation", name, group[0].train[0].path, data, config.seed, labels)


def foresee(config: RunConfig, groups: Sequence[tuple[str, Sequence[Category]]], labels: str | None = None) -> None:
    """Refuse, before any trial has trained, what none of them could be judged by. No picture is read.

    Raises:
        UserError: as :func:`validation`, or the labelled pictures are the test pictures of the data set.
    """
    there = [] if labels is None else _labelled_set(config, labels)
    for name, group in groups:
        if labels is not None:
            tested = {sample.path.resolve() for category in group for sample in category.test}
            if any(sample.path.resolve() in tested for sample in _labelled_samples(there, name, group, labels)):
                raise UserError(
                    f"validation: {labels} is the data set itself, or a part of it, whose test pictures must choose nothing. "
                    "Name another folder."
                )
        else:
            enough(name, len(split(len(good_pictures(group)), config.data.holdout, config.seed)[1]))


def _labelled_set(config: RunConfig, labels: str) -> list[Category]:
    format = "mvtec" if config.data.format == "textures" else config.data.format
    if not Path(labels).is_dir():
        raise UserError(f"validation: {labels}: no such folder. Name the one that holds your labelled pictures.")
    return open_dataset(format, Path(labels), "all")


def _labelled_samples(there: Sequence[Category], name: str, group: Sequence[Category], labels: str) -> list[Sample]:
    wanted = {category.name for category in group}
    samples = [s for c in there if c.name in wanted or len(there) == len(wanted) == 1 for s in c.test]
    if not has_masks(samples) or not any(s.label == 0 for s in samples):
        raise UserError(f"{labels}: {name} needs good pictures and defects with masks there to be judged by.")
    return samples


def _own(config: RunConfig, name: str, group: Sequence[Category], labels: str, apart: torch.Tensor) -> Validation:
    samples, size = _labelled_samples(_labelled_set(config, labels), name, group, labels), config.data.image_size
    pictures, samples, _ = load_images(samples, size, on_bad_image=config.data.on_bad_image)
    masks = [fit(torch.from_numpy(m)[None].expand(3, -1, -1).float(), size)[0].numpy() >= 0.5 for m in load_masks(samples)]
    return labelled(pictures, masks, [s.kind for s in samples], apart)
