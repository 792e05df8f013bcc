"""How far are a teacher's features from those of good pictures, measured by their own scatter?

Source: the Mahalanobis distance to a Gaussian of normal features, Rippel, Mertens, Merhof, "Modeling the distribution of normal
data in pre-trained deep features for anomaly detection", ICPR 2020 (arXiv 2005.14140), here at every position of every level, with
one Gaussian a level for all positions (PaDiM, arXiv 2011.08785, has one a position, which wants pictures that are aligned).

It complements the discrepancy: the cosine adds up what the student misses in all channels, however much they vary on good pictures;
this one counts directions in which good pictures hardly vary at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

Levels = Sequence[torch.Tensor]
WINDOW = 3  # positions a side that features are averaged over; neighbouring windows overlap in all but 1 / WINDOW^2
TRUST = 4  # pictures' worth of the level's mean in what is expected at a position
_LEAST = 1e-3  # of the mean variance, given to a channel that never varies; also the least shrinkage


class Mahalanobis(nn.Module):
    """Levels of the teacher -> distance at every position of the finest one.

    The distance of a level is sqrt((x - mean)^T covariance^-1 (x - mean) / C), divided by its own mean at that position over good
    pictures: at the picture's border a network sees padding, which is rare and therefore far from everything, in good pictures too.

    Args:
        channels: of the levels, finest first.
        sizes: (H_k, W_k) of the levels.

    Attributes:
        mean_k (C,), whitening_k (C, C), expected_k (H, W): of each level, set by :meth:`fit`.
    """

    def __init__(self, channels: Sequence[int], sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.count = len(channels)
        for k, (c, size) in enumerate(zip(channels, sizes)):
            self.register_buffer(f"mean_{k}", torch.zeros(c))
            self.register_buffer(f"whitening_{k}", torch.eye(c))
            self.register_buffer(f"expected_{k}", torch.ones(size))

    def forward(self, teacher: Levels) -> torch.Tensor:
        """[(B, C_k, H_k, W_k)] -> (B, H_1, W_1) float32, summed over the levels; about their number on good pictures."""
        total: torch.Tensor | None = None
        for k, level in enumerate(teacher):
            x = (self._whitened(k, level) / self.get_buffer(f"expected_{k}")).unsqueeze(1)
            if total is not None and x.shape[-2:] != total.shape[-2:]:
                x = F.interpolate(x, size=total.shape[-2:], mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        assert total is not None
        return total.squeeze(1)

    def _whitened(self, k: int, level: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, H, W): root mean square of the whitened channels."""
        x = _averaged(level) - self.get_buffer(f"mean_{k}").view(-1, 1, 1)
        x = F.conv2d(x, self.get_buffer(f"whitening_{k}")[:, :, None, None])
        return (x.square().mean(1) + 1e-12).sqrt()

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterable[Levels]]) -> None:
        """Measure good pictures; ``batches`` is called twice and gives their levels, batch by batch, the same both times."""
        nothing = torch.zeros(1, device=self.get_buffer("mean_0").device)
        sums = [[nothing, nothing] for _ in range(self.count)]  # of numbers and products, in float64
        positions = [0] * self.count
        for levels in batches():
            for k, level in enumerate(levels):
                rows = _averaged(level).permute(0, 2, 3, 1).flatten(0, 2).double()
                positions[k] += len(rows)
                sums[k] = [sums[k][0] + rows.sum(0), sums[k][1] + rows.T @ rows]
        for k, ((first, second), count) in enumerate(zip(sums, positions)):
            mean = first / count
            self.get_buffer(f"mean_{k}").copy_(mean)
            covariance = (second / count - torch.outer(mean, mean)).cpu()
            self.get_buffer(f"whitening_{k}").copy_(whitening(covariance, count / WINDOW**2))
        seen = 0
        totals = [nothing] * self.count
        for levels in batches():
            seen += len(levels[0])
            totals = [total + self._whitened(k, level).sum(0) for k, (total, level) in enumerate(zip(totals, levels))]
        for k, total in enumerate(totals):
            expected = (total + TRUST * total.mean() / seen) / (seen + TRUST)
            self.get_buffer(f"expected_{k}").copy_(expected.clamp(min=1e-6))


def _averaged(level: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(level.float(), WINDOW, 1, WINDOW // 2)


def whitening(covariance: torch.Tensor, count: float) -> torch.Tensor:
    """W (C, C), lower triangular, with W^T W the inverse of a shrunk covariance (C, C) that was estimated from ``count`` samples.

    The correlations shrink towards none by the share that suits a Gaussian of so many samples (oracle approximating shrinkage,
    Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE TSP 2010, equation 23). Variances stay.
    """
    variance = covariance.diagonal()
    deviation = variance.clamp(min=_LEAST * variance.mean().clamp(min=1e-12)).sqrt()
    correlation = (covariance / torch.outer(deviation, deviation)).fill_diagonal_(1)
    channels, squares, trace = len(covariance), correlation.square().sum(), correlation.trace()
    spread = squares - trace.square() / channels
    share = ((1 - 2 / channels) * squares + trace.square()) / ((count + 1 - 2 / channels) * spread).clamp(min=1e-12)
    share = share.clamp(_LEAST, 1)
    shrunk = (1 - share) * correlation + share * torch.eye(channels, dtype=correlation.dtype)
    factor = torch.linalg.cholesky(shrunk)
    return torch.linalg.solve_triangular(factor, torch.diag(1 / deviation), upper=False)
