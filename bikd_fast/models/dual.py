"""Two students of inverted structure under one teacher.

Source: Yao, Gao, "Dual-student knowledge distillation networks for unsupervised anomaly detection", arXiv 2402.00448: an encoder
student and a decoder student, matched to the teacher level by level, the maps of both combined. Their interaction through a shared
deep embedding is left out: our decoder has a bottleneck of its own over the teacher's features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bikd_fast.models.plain_students import EncoderStudent, ReverseStudent, Student


class DualStudent(Student):
    """An encoder on the picture and a bottleneck decoder on the frozen features.

    Outputs the levels of the first, then those of the second.
    """

    reads = "both"

    def __init__(self, channels: Sequence[int], strides: Sequence[int], size: float = 1.0, depth: int = 1) -> None:
        super().__init__([*channels, *channels])
        self.encoder = EncoderStudent(channels, strides, size, depth)
        self.decoder = ReverseStudent(channels, strides, size, depth)

    def forward(self, picture: torch.Tensor, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return self.encoder(picture) + self.decoder(None, features)

    def targets(self, teacher: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [*teacher, *teacher]
