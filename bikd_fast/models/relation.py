"""Relations between levels instead of the levels themselves: the student learns the teacher's FSP matrices.

Source: Cheng, Yang, Liu, "Relation-based knowledge distillation for anomaly detection", PRCV 2021 (LNCS 13019), after the FSP
matrix of Yim, Joo, Bae, Kim, "A gift from knowledge distillation", CVPR 2017: the inner product over positions of two neighbouring
layers. One matrix a picture locates nothing; ours takes one a window, so that the discrepancy is a map like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from bikd_fast.config import ConfigError
from bikd_fast.models.plain_students import EncoderStudent, Student

WINDOW = 3  # side of the window that a matrix is averaged over, in positions of the coarser of its two levels


class RelationStudent(Student):
    """An encoder on the picture (as STPM's) that gives the FSP matrices of its own neighbouring levels.

    Outputs, and the teacher's targets: [(B, C_k C_{k+1}, H_{k+1}, W_{k+1})], one level fewer than the teacher has. The cosine over
    channels is then that of two matrices by the Frobenius inner product.

    Raises:
        ValueError: a single level, which has no neighbour.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], size: float = 1.0, depth: int = 2) -> None:
        if len(channels) < 2:
            raise ConfigError(f"model.student: relation needs at least two levels, and model.strides gives {len(channels)}.")
        super().__init__([a * b for a, b in zip(channels, channels[1:])])
        self.net = EncoderStudent(channels, strides, size, depth)

    def forward(self, picture: torch.Tensor, features: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        return relations(self.net(picture))

    def targets(self, teacher: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return relations(teacher)


def relations(levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """FSP matrices of neighbouring levels, (B, C_k C_{k+1}, H_{k+1}, W_{k+1}): mean over a window of the outer product of both.

    The finer level is max-pooled to the coarser one's positions, as Yim et al. do, and every vector is brought to length one, so
    that no bright position outweighs the rest of its window.
    """
    found = []
    for fine, coarse in zip(levels, levels[1:]):
        if fine.shape[-2:] != coarse.shape[-2:]:
            fine = F.max_pool2d(fine, fine.shape[-1] // coarse.shape[-1])
        product = F.normalize(fine, dim=1).unsqueeze(2) * F.normalize(coarse, dim=1).unsqueeze(1)
        found.append(F.avg_pool2d(product.flatten(1, 2), WINDOW, 1, WINDOW // 2, count_include_pad=False))
    return found
