"""A contact sheet of what the simulation makes: picture, corrupted, label, harmless noise, one sample a row."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .random import sample_keys
from .simulator import Simulator

GAP = 4
COLUMNS = ("picture", "corrupted", "label", "nuisance")


def sheet(pictures: Tensor, simulator: Simulator, path: Path | str, *, rows: int = 16, seed: int = 0) -> None:
    """Write a PNG (or whatever the suffix names) of `rows` samples, two a line.

    pictures: (M, 3, S, S) uint8, the pool the simulator was made with; they are taken in turn.
    """
    index = torch.arange(rows, device=pictures.device) % len(pictures)
    images = pictures[index].float() / 255
    made = simulator(images, index, sample_keys(seed, 0, torch.arange(rows, device=pictures.device)))
    label = made.mask.unsqueeze(1).expand_as(images).float()
    strips = torch.stack((images, made.corrupted, label, made.nuisance), 1).mul(255).round().byte().cpu()
    names = [simulator.kinds[k] for k in made.kind.tolist()]
    size = pictures.shape[-1]
    wide = len(COLUMNS) * (size + GAP) + 2 * GAP
    tall = size + GAP
    canvas = Image.new("RGB", (2 * wide, ((rows + 1) // 2) * tall), "white")
    pen = ImageDraw.Draw(canvas)
    for i, name in enumerate(names):
        left, top = (i % 2) * wide, (i // 2) * tall
        for j in range(len(COLUMNS)):
            tile = Image.fromarray(np.ascontiguousarray(strips[i, j].permute(1, 2, 0).numpy()))
            canvas.paste(tile, (left + j * (size + GAP), top))
        pen.rectangle((left, top, left + 8 + 7 * len(name), top + 14), fill="white")
        pen.text((left + 4, top + 1), name, fill="black")
    canvas.save(path)
