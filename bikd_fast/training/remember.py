"""What takes the place of training for a memory (model.student ``bank``): look at every good picture once, keep some positions."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bikd_fast.config import RunConfig
from bikd_fast.inference.runner import batches
from bikd_fast.models.detector import Detector
from bikd_fast.models.memory import CAPACITY, Memory
from bikd_fast.models.positions import Drawn
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.log import peak_megabytes
from bikd_fast.training.mirrors import group_numbers, natural_copies, rounds, sampled, with_copies


@torch.no_grad()
def remember(config: RunConfig, pictures: torch.Tensor, categories: Sequence[str], ranks: Ranks, folder: Path) -> Detector:
    """A detector that remembers up to :data:`CAPACITY` random positions of uint8 (M, 3, S, S) good pictures, not yet calibrated.

    categories: M names, what the pictures are of: natural copies are found category by category.

    Which positions is a function of config.seed alone; every rank makes the same detector. Writes one line into log.jsonl.
    """
    torch.manual_seed(config.seed)  # for a backbone of random weights
    detector = Detector(config.model, config.map, config.data.image_size)
    detector.backbone.load(config.model.weights)
    detector.to(ranks.device).eval()
    detector.backbone.to(memory_format=torch.channels_last)
    memory = detector.student
    assert isinstance(memory, Memory)
    if config.data.copies:
        groups = group_numbers(categories)
        natural = [natural_copies(pictures[rows].to(ranks.device), detector.backbone) for rows in sampled(groups)]
        pictures = with_copies(pictures, rounds(natural), groups)
    each = (config.data.image_size // memory.stride) ** 2
    drawn = Drawn(len(pictures) * each, CAPACITY, config.seed)
    rows, total, squares = [], torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for x in batches(pictures, ranks.device):
        seen = memory.gather(detector.backbone(x)).flatten(0, 2).cpu()
        total, squares = total + seen.double().sum(0), squares + seen.double().square().sum(0)
        rows.append(drawn.of(seen))
    count = len(pictures) * each
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    device = ranks.device
    memory.remember(torch.cat(rows).to(device), mean.float().to(device), deviation.float().to(device))
    if ranks.first:
        line = {"step": 1, "phase": "remember", "pictures": len(pictures), "positions": len(drawn.chosen)}
        (folder / "log.jsonl").write_text(json.dumps(line | {"peak_memory_mb": peak_megabytes(ranks)}) + "\n")
        print(f"  remembered {len(drawn.chosen)} positions of {len(pictures)} pictures", file=sys.stderr, flush=True)
    return detector
