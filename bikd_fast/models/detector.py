"""The detector: what is saved, loaded, run and exported. Pictures in, anomaly map and score out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from bikd_kernels import anomaly_map
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bikd_fast.config import MapConfig, ModelConfig
from bikd_fast.errors import UserError
from bikd_fast.files import whole
from bikd_fast.models.backbone import Backbone
from bikd_fast.models.described import built_from, mapping, numbers
from bikd_fast.models.filling import added
from bikd_fast.models.head import SegmentationHead, smoothing
from bikd_fast.models.mahalanobis import Mahalanobis
from bikd_fast.models.students import STUDENTS, Memory, Student
from bikd_fast.models.teacher import Adapter

if TYPE_CHECKING:
    from bikd_fast.inference.prediction import Prediction

FILE_NAME = "detector.safetensors"
FORMAT = 4
THRESHOLDS = ("threshold", "pixel_threshold")  # NaN where there is none


class DetectorError(UserError):
    """A detector file is missing, damaged, or of another format; the message names it."""


class Detector(nn.Module):
    """Backbone, adapter, student and map head of one trained detector.

    Args:
        model, map_config: the settings it was built with.
        image_size: side of the square that it reads, in pixels.

    Attributes:
        level_weights: weight of each of the student's levels in the map, set by calibration on held-out normals.
        mix: (a, b, c, d), the map is a * discrepancy + b * logits + c * distance + d, set by the same calibration; where there is
            neither a head nor a Mahalanobis distance it is the discrepancy, (1, 0, 0, 0).
        threshold: 0-dim, the score above which a picture is called anomalous; NaN until calibrated.
        pixel_threshold: 0-dim, the same for a pixel of the map.
        about: free metadata (categories, how the threshold was chosen, versions), plain JSON.
    """

    smooth: torch.Tensor
    threshold: torch.Tensor
    pixel_threshold: torch.Tensor

    def __init__(self, model: ModelConfig, map_config: MapConfig, image_size: int) -> None:
        super().__init__()
        self.model_config, self.map_config, self.image_size = model, map_config, image_size
        self.backbone = Backbone(model.teacher, model.strides, image_size, model.pool)
        channels, strides = self.backbone.channels, self.backbone.strides
        self.adapter = Adapter(channels, model.bound) if model.adapter else None
        self.student: Student = STUDENTS[model.student](channels, strides, size=model.size, depth=model.depth)
        self.head = SegmentationHead(channels) if model.head else None
        sizes = [(image_size // s, image_size // s) for s in strides]
        self.mahalanobis = Mahalanobis(channels, sizes) if model.mahalanobis else None
        finest = self.student.stride if isinstance(self.student, Memory) else strides[0]
        self.register_buffer("smooth", smoothing(image_size // finest, image_size, self.sigma), persistent=False)
        self.mix: tuple[float, ...] = (1.0, float(model.head), float(model.mahalanobis), 0.0)
        self.level_weights: tuple[float, ...] = (1.0,) * len(self.student.channels)
        if map_config.calibrate_channels:
            for k, count in enumerate(self.student.channels):
                self.register_buffer(f"channel_weights_{k}", torch.ones(count))
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("pixel_threshold", torch.tensor(float("nan")))
        self.about: dict[str, Any] = {}

    def features(self, pictures: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """(B, 3, S, S) in [0, 1] -> teacher's and student's levels as they are compared, each [(B, C_k, H_k, W_k)]."""
        return self.compared(pictures, self.backbone(pictures))

    def compared(
        self, pictures: torch.Tensor, frozen: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The same from pictures and the backbone's levels. A memory has no teacher's levels, and its one level is a distance."""
        student = self.student(self.backbone.normalise(pictures), frozen)
        teacher = self.adapter.adapt(frozen) if self.adapter is not None else frozen
        return self.student.targets(teacher), student

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, S, S) float in [0, 1] -> anomaly map (B, S, S) and score (B,), float32, higher = more anomalous."""
        return self.judge(*self.features(pictures))

    def judge(self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels of :meth:`features` -> map (B, S, S) and score (B,)."""
        anomaly, score = self.discrepancy(teacher, student)
        rest = self.beside(teacher, student)
        if rest is None and not self.map_config.fill:
            return anomaly, score
        if rest is not None:
            anomaly = self.mix[0] * anomaly + (rest + self.mix[3])
        return self.finished(anomaly)

    def finished(self, anomaly: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The parts' sum (B, S, S) -> map (B, S, S), filled where that is asked for, and score (B,)."""
        if self.map_config.fill:
            anomaly = self.filled(anomaly)
        return anomaly, self.score(anomaly)

    def filled(self, anomaly: torch.Tensor) -> torch.Tensor:
        """(B, S, S) -> the same, raised where high values surround lower ones; decided at the finest level's positions."""
        coarse = F.avg_pool2d(anomaly.unsqueeze(1), self.image_size // self.smooth.shape[1]).squeeze(1)
        return anomaly + self.brought_up(added(coarse))

    def beside(self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """What comes to the discrepancy, weighed: b * logits + c * distance (B, S, S), brought up together; None without either."""
        branches = zip(self.mix[1:3], self._branches(teacher, student))
        weighed = [weight * coarse for weight, coarse in branches if coarse is not None]
        return self.brought_up(sum(weighed[1:], weighed[0])) if weighed else None

    def parts(self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """Discrepancy, logits and distance, each a map (B, S, S) by itself, or None: what :attr:`mix` weighs."""
        branches = [None if coarse is None else self.brought_up(coarse) for coarse in self._branches(teacher, student)]
        return [self.discrepancy(teacher, student)[0], *branches]

    def _branches(self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """Logits and distance (B, h, w) at the finest level's positions, None for what the detector lacks."""
        return [
            None if self.head is None else self.head(teacher, student).float(),
            None if self.mahalanobis is None else self.mahalanobis(teacher),
        ]

    def brought_up(self, coarse: torch.Tensor) -> torch.Tensor:
        """(B, h, w) at the finest level's positions -> (B, S, S), upsampled and blurred as the discrepancy is."""
        return self.smooth @ coarse @ self.smooth.T

    def score(self, anomaly: torch.Tensor) -> torch.Tensor:
        """(B, S, S) -> (B,): the maximum, or the mean of the topk largest pixels."""
        flat = anomaly.flatten(1)
        if self.map_config.score == "max":
            return flat.amax(1)
        return flat.topk(min(self.map_config.topk, flat.shape[1]), dim=1).values.mean(1)

    @property
    def sigma(self) -> float:
        """Of the blur, in pixels of this detector's pictures."""
        return self.map_config.sigma * self.image_size / 256

    def discrepancy(
        self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels -> discrepancy map (B, S, S) and its score (B,), by the one fused operator; a memory's distance likewise."""
        config = self.map_config
        if isinstance(self.student, Memory):
            distance = self.brought_up(student[0].squeeze(1))
            return distance, self.score(distance)
        if config.calibrate_channels:
            teacher, student = self.weighted(teacher), self.weighted(student)
        anomaly, score = anomaly_map(
            list(teacher),
            list(student),
            self.image_size,
            scale_weights=self.level_weights,
            combine=config.combine,
            sigma=self.sigma,
            score=config.score,
            topk=config.topk,
        )
        assert anomaly is not None  # return_map is on
        return anomaly, score

    def channel_weights(self) -> list[torch.Tensor]:
        """(C_k,) a level, set by calibration; only where map.calibrate_channels is on."""
        return [self.get_buffer(f"channel_weights_{k}") for k in range(len(self.student.channels))]

    def weighted(self, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Every channel times the root of its weight: the cosine becomes sum w t s / sqrt(sum w t^2 sum w s^2)."""
        return [f * w.sqrt().view(-1, 1, 1).to(f.dtype) for f, w in zip(levels, self.channel_weights())]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.threshold.device

    def predict(self, images: Any) -> Prediction:
        """Scores, maps, labels and masks of pictures: paths, Pillow pictures, arrays (H, W, 3), tensors (3, H, W), one or many.

        Raises:
            DataError: a file is no readable picture.
            InputError: something else is no picture.
        """
        from bikd_fast.inference.prediction import predict

        return predict(self, images)

    def save(self, path: Path) -> None:
        """Write one safetensors file (weights, thresholds, settings as JSON metadata); a folder gets ``detector.safetensors``.

        The backbone travels inside, so that loading needs no hub and no second file.
        """
        path = path / FILE_NAME if path.is_dir() else path
        described = {
            "format": FORMAT,
            "model": asdict(self.model_config),
            "map": asdict(self.map_config),
            "image_size": self.image_size,
            "level_weights": self.level_weights,
            "mix": self.mix,
            "about": self.about,
        }
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        with whole(path) as temporary:
            save_file(tensors, temporary, metadata={"bikd_fast": json.dumps(described)})

    @classmethod
    def load(cls, run: str | Path, device: str | torch.device = "cpu") -> Detector:
        """Load from a run folder or a detector file; runs no code of the file and asks no network.

        Raises:
            DetectorError: no detector there, several to choose from, a damaged file or another format.
        """
        path = _find(Path(run))
        try:
            with safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {}).get("bikd_fast", "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except Exception as error:
            raise DetectorError(f"{path}: not a readable safetensors file ({error}). Train again or restore a copy.") from error
        found = described.get("format") if isinstance(described, dict) else None
        if found != FORMAT:
            what = "no detector of bikd_fast" if found is None else f"a detector of format {found}, and this version reads {FORMAT}"
            raise DetectorError(f"{path}: {what}. Train again, or use the version that wrote it.")
        try:
            detector = cls(*built_from(described, tensors))
            detector.backbone.fold()
            detector.load_state_dict(tensors)
            detector.level_weights = numbers(described, "level_weights", len(detector.student.channels))
            detector.mix, detector.about = numbers(described, "mix", 4), mapping(described, "about")
        except (UserError, TypeError, ValueError, RuntimeError) as error:  # a setting or a tensor that this version knows otherwise
            reason = " ".join(str(error).split())[:240]  # torch names the tensor in its second line
            raise DetectorError(f"{path}: does not fit this version of bikd_fast ({reason.rstrip('.')}). Train again.") from error
        broken = [name for name, tensor in tensors.items() if name not in THRESHOLDS and not _finite(tensor)]
        if broken:
            raise DetectorError(f"{path}: {broken[0]} holds what is no number: damaged. Train again or restore a copy.")
        return detector.to(device).eval().requires_grad_(False)


def _finite(tensor: torch.Tensor) -> bool:
    """Whether every number is. Their sum tells in an eighth of the time: it is finite only where all are."""
    return math.isfinite(tensor.sum()) or bool(torch.isfinite(tensor).all())


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    inside = sorted(p.parent.name for p in path.glob(f"*/{FILE_NAME}")) if path.is_dir() else []
    if len(inside) == 1:
        return path / inside[0] / FILE_NAME
    if inside:
        raise DetectorError(f"{path} holds detectors of {len(inside)} categories; name one: {path}/{{{','.join(inside)}}}.")
    raise DetectorError(f"{path}: no {FILE_NAME} there. Give the folder of a finished run.")
