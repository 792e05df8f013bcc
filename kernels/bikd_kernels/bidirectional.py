"""The bidirectional objective."""

from torch import Tensor

from .reference.naive import bidirectional_loss_naive


def bidirectional_loss(clean, corrupt, student_clean, student_corrupt, regions, *, impl: str = "auto", **options) -> tuple[Tensor, dict[str, Tensor]]:
    """loss, terms of the whole objective."""
    return bidirectional_loss_naive(clean, corrupt, student_clean, student_corrupt, regions, **options)
