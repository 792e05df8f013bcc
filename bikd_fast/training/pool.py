"""The training set as the device sees it: uint8 pictures and, where they fit, the frozen backbone's features of each."""

from __future__ import annotations

import psutil
import torch

from bikd_fast.data.room import local_size
from bikd_fast.models.backbone import Backbone
from bikd_fast.models.lowered import lowered
from bikd_fast.training.kept import NOTHING, Kept
from bikd_fast.training.sampling import Batch
from bikd_fast.training.streaming import Stream

FEATURE_SHARE = 0.25  # of the free memory that cached features may take, all ranks of a machine together


class Pool:
    """Pictures (M, 3, S, S) uint8 on the device, and E(x) of every one, computed once.

    Args:
        source: uint8 (M, 3, S, S), or a stream of pictures that do not fit in memory; nothing of a stream is cached here.
        backbone: frozen E, on the device.
        dtype: of the cached features.
        cache: whether features may be cached at all.
        kept: where they may lie already, from a training before on the same pictures.
    """

    def __init__(
        self,
        source: torch.Tensor | Stream,
        backbone: Backbone,
        device: torch.device,
        dtype: torch.dtype,
        cache: bool = True,
        kept: Kept = NOTHING,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.backbone = lowered(backbone) if device.type == "cpu" and dtype == torch.bfloat16 else backbone
        self.stream = source if isinstance(source, Stream) else None
        pictures = source.some() if isinstance(source, Stream) else source
        self.count, self.pictures = len(source), pictures.to(device)
        self.features: list[torch.Tensor] | None = None
        self._now: tuple[int, list[tuple[torch.Tensor, torch.Tensor]]] = (-1, [])
        if cache and self.stream is None and self._fits():
            self.features = kept(self._all_features, "features", self.pictures, backbone, dtype)

    def __len__(self) -> int:
        return self.count

    def fetch(self, step: int, micro: int, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures of a micro-batch as float32 (B, 3, S, S) in [0, 1]; of a stream also what its simulator needs, uint8."""
        if self.stream is None:
            return self.load(batch.index), None
        if self._now[0] != step:
            self._now = (step, self.stream.take(step))
        own, others = (x.to(self.device, non_blocking=True) for x in self._now[1][micro])
        return own.float().div_(255), others

    def load(self, index: torch.Tensor) -> torch.Tensor:
        """Pictures at ``index`` as float32 (B, 3, S, S) in [0, 1]."""
        return self.pictures[index.to(self.device)].float().div_(255)

    @torch.no_grad()
    def frozen(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """E of float pictures in [0, 1], in the pool's dtype."""
        x = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return [f.to(self.dtype) for f in self.backbone(x)]

    def _all_features(self) -> list[torch.Tensor]:
        count = len(self.pictures)
        chunks = [self.frozen(self.load(torch.arange(i, min(i + 8, count)))) for i in range(0, count, 8)]
        return [
            torch.cat([chunk[k] for chunk in chunks]).contiguous(memory_format=torch.channels_last)
            for k in range(len(self.backbone.channels))
        ]

    def clean(self, index: torch.Tensor, pictures: torch.Tensor) -> list[torch.Tensor]:
        """E(x) of the pictures at ``index``: from the cache, else computed from ``pictures``."""
        if self.features is None:
            return self.frozen(pictures)
        where = index.to(self.device)
        return [f[where] for f in self.features]

    def _fits(self) -> bool:
        needed = self.backbone.numbers(self.pictures.shape[-1]) * len(self) * torch.finfo(self.dtype).bits // 8
        free = torch.cuda.mem_get_info()[0] if self.device.type == "cuda" else psutil.virtual_memory().available
        sharing = 1 if self.device.type == "cuda" else local_size()
        return needed <= FEATURE_SHARE * free / sharing
