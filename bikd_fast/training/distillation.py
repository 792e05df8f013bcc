"""The one module that DeepSpeed trains: adapter and student, and the objective over their features.

The objective is the bidirectional one of docs/method.md. The systems it is compared with are settings of it (configs/), each with
its source:

stpm        frozen teacher, encoder student, clean pictures, D at every position, levels multiplied in the map: Wang, Han, Ding,
            Huang, "Student-teacher feature pyramid matching for anomaly detection", BMVC 2021 (arXiv 2103.04257).
rd          bottleneck and decoder on the features, cosine over each flattened level (``over: map``): Deng, Li, "Anomaly detection
            via reverse distillation from one-class embedding", CVPR 2022 (arXiv 2201.10703); flattened as in its published code.
denoising   one way (``beta: 0``), the student sees x~ and gives the clean features: Zhang, Li, Li, Huang, Shan, Chen, "DeSTSeg:
            segmentation guided denoising student-teacher for anomaly detection", CVPR 2023 (arXiv 2211.11317), without its head.
relation, dual, inpainting, bank    bikd_fast/models/relation.py, dual.py, inpainting.py, memory.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from bikd_kernels import bidirectional_loss, cosine_discrepancy
from torch import nn

from bikd_fast.config import ObjectiveConfig
from bikd_fast.models.head import SegmentationHead, segmentation_loss
from bikd_fast.models.inpainting import InpaintingStudent
from bikd_fast.models.students import Student
from bikd_fast.models.teacher import Adapter

Levels = list[torch.Tensor]
Balance = float | torch.Tensor  # a 0-dim tensor is never 0: what is left out at 0 is not asked of the device
Result = tuple[torch.Tensor, dict[str, torch.Tensor]]


@dataclass
class Inputs:
    """What one micro-batch brings to the objective.

    Attributes:
        clean: [E_k(x)], frozen.
        corrupt: [E_k(x~)], frozen; None where neither the backward direction nor a feature-fed student needs it.
        nuisance, corrupted: (B, 3, S, S) normalised pictures n(x) and x~ for a student that sees pictures; corrupted is None where
            nothing learns from simulated defects.
        regions: [(B, H_k, W_k) uint8] of :func:`bikd_kernels.region_maps`; None in forward-only steps.
        counts: (L, 2) divisors of the two regions' means, global over ranks.
        share: (B, H_1, W_1) share of each finest position that is simulated defect; None leaves the head untrained.
        share_counts: (2,) divisors of the head's loss, global over ranks.
        keys: (B,) int64 of each sample's random choices, for a student that makes some.
    """

    clean: Levels
    corrupt: Levels | None
    nuisance: torch.Tensor
    corrupted: torch.Tensor | None
    regions: Levels | None = None
    counts: torch.Tensor | None = None
    share: torch.Tensor | None = None
    share_counts: torch.Tensor | None = None
    keys: torch.Tensor | None = None


class Distillation(nn.Module):
    """Both directions of distillation in one forward pass (one engine: two engines with a joint loss fail at ZeRO 0)."""

    def __init__(
        self, adapter: Adapter | None, student: Student, config: ObjectiveConfig, head: SegmentationHead | None = None
    ) -> None:
        super().__init__()
        self.adapter, self.student, self.head, self.config = adapter, student, head, config

    def forward(self, inputs: Inputs, beta: Balance, instead: Callable[[Inputs, Balance], Result] | None = None) -> Result:
        """Loss with gradient (scalar) and detached terms; ``beta`` = 0 needs neither ``corrupt`` nor ``regions``.

        Args:
            beta: weight of the backward direction, :attr:`bikd_fast.training.schedule.Phase.weight`; the loss is divided by the
                larger of beta and 1 - beta.
            instead: what computes the same, from the same parameters, in place of this module's own operations.
        """
        if instead is not None:
            return instead(inputs, beta)
        if inputs.corrupted is None:
            return self._clean_only(inputs)
        student_clean, student_corrupt = self._students(inputs)
        if not isinstance(beta, torch.Tensor) and beta == 0:
            loss, terms = self._forward_only(inputs, student_clean, student_corrupt)
        else:
            loss, terms = self._both(inputs, student_clean, student_corrupt, beta)
        if self.head is not None and inputs.share is not None:
            segmentation = self._segmentation(inputs, student_clean, student_corrupt)
            loss = loss + self.config.segmentation * segmentation
            terms = {**terms, "segmentation": segmentation.detach()}
        return loss, terms

    def _segmentation(self, inputs: Inputs, clean: Levels, corrupt: Levels) -> torch.Tensor:
        """The head's loss on simulated defects and on the clean pictures; teacher and student are detached."""
        assert self.head is not None and inputs.corrupt is not None and inputs.share is not None
        teacher = self._teacher([torch.cat([c, f]) for c, f in zip(inputs.clean, inputs.corrupt)])
        student = [torch.cat([c, f]).detach() for c, f in zip(clean, corrupt)]
        share = torch.cat([torch.zeros_like(inputs.share), inputs.share])
        return segmentation_loss(self.head(teacher, student), share, inputs.share_counts)

    @torch.no_grad()
    def _teacher(self, features: Levels) -> Levels:
        return features if self.adapter is None else self.adapter.adapt(features)

    def _both(self, inputs: Inputs, student_clean: Levels, student_corrupt: Levels, beta: Balance) -> Result:
        assert self.adapter is not None and inputs.corrupt is not None and inputs.regions is not None
        config = self.config
        return bidirectional_loss(
            inputs.clean,
            inputs.corrupt,
            student_clean,
            student_corrupt,
            inputs.regions,
            adapter_clean=self.adapter(inputs.clean),
            adapter_corrupt=self.adapter(inputs.corrupt),
            bound=self.adapter.bound,
            beta=beta,
            margin=config.margin,
            forward_weights=(config.forward_corrupt, config.forward_clean),
            use_con=config.con,
            use_div=config.div,
            use_anc=config.anc,
            # L_F at weight 1, as in the steps before: Adam remembers the size of gradients for longer than a training takes, and a
            # student whose loss became smaller would learn more slowly for it
            peak=True,
            counts=inputs.counts,
        )

    def _students(self, inputs: Inputs) -> tuple[Levels, Levels]:
        """S(n(x)) and S(x~) in one pass over a batch of both."""
        assert inputs.corrupted is not None
        count = inputs.corrupted.shape[0]
        if self.student.reads == "image":
            both = self.student(torch.cat([inputs.nuisance, inputs.corrupted]).contiguous(memory_format=torch.channels_last))
        else:
            assert inputs.corrupt is not None
            pictures = torch.cat([inputs.nuisance, inputs.corrupted]) if self.student.reads == "both" else None
            both = self.student(pictures, [torch.cat([a, b]) for a, b in zip(inputs.clean, inputs.corrupt)])
        return [f[:count] for f in both], [f[count:] for f in both]

    def _forward_only(self, inputs: Inputs, clean: Levels, corrupt: Levels) -> Result:
        teacher = self.student.targets(self._teacher(inputs.clean))
        of_corrupt = self._distance(teacher, corrupt)
        of_clean = self._distance(teacher, clean)
        loss = self.config.forward_corrupt * of_corrupt + self.config.forward_clean * of_clean
        terms = {"forward_corrupt": of_corrupt, "forward_clean": of_clean, "forward": loss}
        return loss, {name: value.detach() for name, value in terms.items()}

    def _clean_only(self, inputs: Inputs) -> Result:
        """One student pass over n(x): nothing here knows of simulated defects."""
        teacher = self._teacher(inputs.clean)
        if isinstance(self.student, InpaintingStudent):
            assert inputs.keys is not None
            restored, hidden = self.student.masked(inputs.nuisance, inputs.keys)
            distance = self._distance(teacher, restored, hidden)
        else:
            pictures = None if self.student.reads == "features" else inputs.nuisance.contiguous(memory_format=torch.channels_last)
            distance = self._distance(self.student.targets(teacher), self.student(pictures, inputs.clean))
        loss = self.config.forward_clean * distance
        return loss, {"forward_clean": distance.detach(), "forward": loss.detach()}

    def _distance(self, teacher: Levels, student: Levels, weights: Levels | None = None) -> torch.Tensor:
        """D: mean over batch and (weighted) positions of 1 - cos, or of whole maps' over the batch; summed over the levels."""
        distance = cosine_discrepancy(teacher, student, weights=weights, over=self.config.over, dead="zero")
        assert isinstance(distance, torch.Tensor)  # a scalar reduction
        return distance
