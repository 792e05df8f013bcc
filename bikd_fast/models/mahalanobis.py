"""How far are a teacher's features from those of good pictures, measured by their own scatter?

Source: the Mahalanobis distance to the nearest of several Gaussians with one covariance, Lee, Lee, Lee, Shin, "A simple unified
framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 2018 (arXiv 1807.03888), equations 1 and 2,
here at every position of every level. Good pictures have no classes, so clusters take their place, as in Sehwag, Chiang, Mittal,
"SSD", ICLR 2021 (arXiv 2103.12051). All positions share the Gaussians (PaDiM, arXiv 2011.08785, has one a position, which wants
pictures that are aligned).

It complements the discrepancy: the cosine adds up what the student misses in all channels, however much they vary on good pictures;
this one counts directions in which good pictures hardly vary at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from bikd_fast.models.positions import Drawn

Levels = Sequence[torch.Tensor]
CENTRES = 256  # of the clusters: a level's scatter is no single Gaussian (joint and stone, blade and gap)
POSITIONS = 16_384  # a level that clusters and covariance are measured on, at most
LEAST_MEMBERS = 50  # positions a cluster, on average: fewer pictures have fewer clusters
TRUST = 4  # pictures' worth of the level's mean in what is expected at a position
_ROUNDS, _STEPS = 2, 8  # of measuring the scatter within clusters, and of k-means in each
_LEAST = 1e-3  # of the mean variance, given to a channel that never varies; also the least shrinkage


class Mahalanobis(nn.Module):
    """Levels of the teacher -> distance at every position of the finest one.

    The distance of a level is min over centres of sqrt((x - centre)^T covariance^-1 (x - centre) / C), divided by its own mean at
    that position over good pictures: at the picture's border a network sees padding, which is rare and therefore far from
    everything, in good pictures too. Levels are averaged over 3 x 3 positions, the finest of several strides over 5 x 5.

    Args:
        channels: of the levels, finest first.
        sizes: (H_k, W_k) of the levels.

    Attributes:
        mean_k (C,), whitening_k (C, C), centres_k (CENTRES, C), expected_k (H, W): of each level, set by :meth:`fit`. Centres are
            whitened, W (centre - mean); where there are fewer, the first one fills the rest.
    """

    def __init__(self, channels: Sequence[int], sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.count = len(channels)
        several = len(set(sizes)) > 1
        self.windows = tuple(5 if several and size == max(sizes) else 3 for size in sizes)
        for k, (c, size) in enumerate(zip(channels, sizes)):
            self.register_buffer(f"mean_{k}", torch.zeros(c))
            self.register_buffer(f"whitening_{k}", torch.eye(c))
            self.register_buffer(f"centres_{k}", torch.zeros(CENTRES, c))
            self.register_buffer(f"expected_{k}", torch.ones(size))

    def forward(self, teacher: Levels) -> torch.Tensor:
        """[(B, C_k, H_k, W_k)] -> (B, H_1, W_1) float32, summed over the levels; about their number on good pictures."""
        total: torch.Tensor | None = None
        for k, level in enumerate(teacher):
            x = (self._distance(k, level) / self.get_buffer(f"expected_{k}")).unsqueeze(1)
            if total is not None and x.shape[-2:] != total.shape[-2:]:
                x = F.interpolate(x, size=total.shape[-2:], mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        assert total is not None
        return total.squeeze(1)

    def _distance(self, k: int, level: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, H, W), to the nearest centre."""
        centres = self.get_buffer(f"centres_{k}")
        x = _averaged(level, self.windows[k]) - self.get_buffer(f"mean_{k}").view(-1, 1, 1)
        x = F.conv2d(x, self.get_buffer(f"whitening_{k}")[:, :, None, None])
        nearest = F.conv2d(x, -2 * centres[:, :, None, None], centres.square().sum(1)).amin(1)
        return ((x.square().sum(1) + nearest).clamp(min=0) / x.shape[1] + 1e-12).sqrt()

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterable[Levels]], pictures: int) -> None:
        """Measure good pictures.

        Args:
            batches: called twice; gives the pictures' levels, batch by batch, the same both times.
            pictures: how many there are.
        """
        for k, rows in enumerate(self._some_positions(batches(), pictures)):
            mean, whiten, centres = clusters(rows, self.windows[k])
            self.get_buffer(f"mean_{k}").copy_(mean)
            self.get_buffer(f"whitening_{k}").copy_(whiten)
            filled = self.get_buffer(f"centres_{k}")
            filled.copy_(centres[0].expand_as(filled))
            filled[: len(centres)] = centres
        totals = [torch.zeros(1, device=self.get_buffer("mean_0").device)] * self.count
        for levels in batches():
            totals = [total + self._distance(k, level).sum(0) for k, (total, level) in enumerate(zip(totals, levels))]
        for k, total in enumerate(totals):
            expected = (total + TRUST * total.mean() / pictures) / (pictures + TRUST)
            self.get_buffer(f"expected_{k}").copy_(expected.clamp(min=1e-6))

    def _some_positions(self, batches: Iterable[Levels], pictures: int) -> list[torch.Tensor]:
        """Averaged features (n, C) of each level at up to :data:`POSITIONS` random positions; on the CPU, for one order of sums."""
        found: list[list[torch.Tensor]] = [[] for _ in range(self.count)]
        drawn: list[Drawn] = []
        for levels in batches:
            for k, level in enumerate(levels):
                if len(drawn) == k:
                    drawn.append(Drawn(pictures * level.shape[-2] * level.shape[-1], POSITIONS, k))
                rows = _averaged(level, self.windows[k]).permute(0, 2, 3, 1).flatten(0, 2)
                found[k].append(drawn[k].of(rows).cpu())
        return [torch.cat(rows) for rows in found]


def clusters(rows: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,), whitening (C, C) and whitened centres (K, C) of features (n, C), averages over ``window`` x ``window`` positions.

    k-means in whitened coordinates, the scatter measured anew within its clusters, and again: what differs between clusters would
    otherwise count as a direction in which good pictures vary.
    """
    mean = rows.mean(0)
    rows = (rows - mean).double()
    products = rows.T @ rows
    whiten = whitening(products / len(rows), len(rows) / window**2)
    count = min(CENTRES, len(rows) // LEAST_MEMBERS)
    if count < 2:
        return mean, whiten.float(), torch.zeros(1, rows.shape[1])
    first = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]
    for _ in range(_ROUNDS):
        nearest = _kmeans((rows @ whiten.T).float(), first)
        members = torch.bincount(nearest, minlength=count).double().unsqueeze(1)
        centres = torch.zeros(count, rows.shape[1], dtype=rows.dtype).index_add_(0, nearest, rows) / members.clamp(min=1)
        within = (products - (members * centres).T @ centres) / len(rows)
        whiten = whitening(within, len(rows) / window**2)
    centres = centres[members.squeeze(1) > 0]
    return mean, whiten.float(), (centres @ whiten.T).float()


def _kmeans(rows: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Which of len(first) clusters each of the rows (n, C) belongs to, int64 (n,), after a few steps from those rows."""
    centres = rows[first]
    for step in range(_STEPS + 1):
        nearest = torch.addmm(centres.square().sum(1), rows, centres.T, alpha=-2).argmin(1)
        if step < _STEPS:
            members = torch.bincount(nearest, minlength=len(centres)).unsqueeze(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
            centres = torch.where(members > 0, sums / members.clamp(min=1), centres)  # one that lost all stays where it was
    return nearest


def _averaged(level: torch.Tensor, window: int) -> torch.Tensor:
    return F.avg_pool2d(level.float(), window, 1, window // 2)


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
