"""Multi-scale cosine discrepancy."""

from collections.abc import Sequence

from torch import Tensor

from .reference.naive import cosine_discrepancy_naive


def cosine_discrepancy(
    teacher: Sequence[Tensor], student: Sequence[Tensor], *, weights: Sequence[Tensor] | None = None,
    scale_weights: Sequence[float] | None = None, reduction: str = "mean", over: str = "position", eps: float = 1e-8,
    dead: str = "torch", impl: str = "auto",
) -> Tensor | list[Tensor]:
    """1 - cos between two lists of (B, C, H, W) maps."""
    return cosine_discrepancy_naive(teacher, student, weights=weights, scale_weights=scale_weights,
                                    reduction=reduction, over=over, eps=eps, dead=dead)
