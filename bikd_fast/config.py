"""The one description of a run. YAML files and command lines are views of these dataclasses; every run folder keeps one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bikd_fast.errors import UserError
from bikd_fast.files import write_text
from bikd_fast.simulation.config import SimulationConfig


@dataclass
class DataConfig:
    """The pictures.

    Args:
        format: layout of ``root``: the embedded textures, MVTec AD, VisA, BTAD, a plain folder, or tar shards (docs/data.md).
        root: folder of the data set; for ``textures`` the cache folder they are written to.
        category: names of categories, or ``all``.
        image_size: side of the square that pictures are resized to, in pixels; a multiple of 32.
        on_bad_image: ``error`` stops at the first unreadable picture, ``skip`` leaves it out and counts it.
        textures: folder of foreign pictures, sub-folders too (DTD's images/, say): content for simulated defects; none by default.
        copies: learn from mirrored and turned copies as well, where the training set itself shows that they are natural.
        holdout: share of the training pictures kept back for the threshold and the level weights; 2,048 pictures at most.
        cache_gb: memory the pictures of one detector may take, in GB, all ranks of a machine together; larger sets are read while
            training, through a file that fills as it goes, and measured from files. 0 is a quarter of the machine's memory.
        cache_dir: folder of those files, best on a disk of each machine's own; default the user's cache folder.
    """

    format: Literal["textures", "mvtec", "visa", "btad", "folder", "shards"] = "textures"
    root: str | None = None
    category: list[str] = field(default_factory=lambda: ["all"])
    image_size: int = 256
    on_bad_image: Literal["error", "skip"] = "error"
    textures: str | None = None
    copies: bool = True
    holdout: float = 0.15
    cache_gb: float = 0.0
    cache_dir: str | None = None


@dataclass
class ModelConfig:
    """The networks.

    Args:
        teacher: timm name of the frozen backbone.
        weights: ``auto`` (offline package for tf_efficientnet_lite0, else the hub), ``offline``, ``hub``, ``random``, or a file.
        strides: levels of the backbone, in pixels of the picture.
        pool: side of the window that the teacher's features are averaged over, in positions of each level; odd, 1 is none.
        student: ``image`` (encoder-decoder on the picture), ``reverse`` (bottleneck on the features), ``encoder`` (no decoder);
            ``dual``, ``relation``, ``inpainting`` (related methods, docs/method.md); ``bank`` remembers features, without training.
        size: multiplies the width of every layer of the student.
        depth: residual blocks a stage of the student.
        adapter: whether the teacher learns (T = E (1 + bound tanh G)); off is a frozen teacher.
        bound: r, the largest relative change of a teacher feature.
        head: train the segmentation head on simulated defects and add its map to the discrepancy's.
        mahalanobis: add the distance of the teacher's features to the nearest cluster of good ones, measured after training.
        shared: one detector for all categories instead of one each.
    """

    teacher: str = "tf_efficientnet_lite0"
    weights: str = "auto"
    strides: list[int] = field(default_factory=lambda: [4, 8, 16])
    pool: int = 1
    student: Literal["image", "reverse", "encoder", "dual", "relation", "inpainting", "bank"] = "image"
    size: float = 0.5
    depth: int = 1
    adapter: bool = True
    bound: float = 0.5
    head: bool = True
    mahalanobis: bool = True
    shared: bool = False


@dataclass
class ObjectiveConfig:
    """The bidirectional objective, L = (1 - beta) L_F + beta L_B.

    Args:
        beta: forward/backward balance: the rates of student and teacher, as shares of their peaks, are 1 - beta and beta over the
            larger of the two. 0 is one-way distillation.
        margin: m of the hinge in L_div, in units of 1 - cos.
        forward_corrupt: weight of D(S(x~), T(x)) in L_F.
        forward_clean: weight of D(S(n(x)), T(x)) in L_F; students that read levels are given those of x, without noise.
        con: use L_con, which pulls the teacher towards the student; found to cost accuracy, so it is off (docs/method.md).
        div: use L_div, disagreement on simulated anomalies.
        anc: use L_anc, the anchor to the pretrained features.
        segmentation: weight of the segmentation head's own loss; it reaches no other network.
        over: cosine at every ``position``, or of each level's whole flattened ``map`` (reverse distillation; forward only).
    """

    beta: float = 0.3
    margin: float = 0.5
    forward_corrupt: float = 0.5
    forward_clean: float = 0.5
    con: bool = False
    div: bool = True
    anc: bool = True
    segmentation: float = 1.0
    over: Literal["position", "map"] = "position"


@dataclass
class TrainingConfig:
    """The optimisation.

    Args:
        steps: optimiser steps a category; one detector for several (model.shared) makes so many for each of them.
        batch_size: pictures a step over all ranks.
        accumulation: micro-batches a step on each rank.
        lr_student: peak rate of the student.
        lr_teacher: peak rate of the teacher's adapter; at most a tenth of the student's.
        weight_decay: AdamW's, not on norms and biases.
        warmup: share of the steps in which the rates rise from 0.
        forward_only: share of the steps, at the start, with beta = 0.
        ramp: share of the steps in which beta rises to its value.
        teacher_frozen: share of the steps, at the end, with the teacher frozen and the student at a tenth of its rate.
        precision: ``fp32``, ``bf16`` (autocast), or ``auto``: bf16 where the hardware multiplies it natively.
        log_every: steps between two log lines.
        checkpoint_seconds: time between two checkpoints, one more ends training; 0 writes none but on SIGTERM.
        keep_checkpoints: how many are kept.
        compile: torch.compile the student. Measured on a CPU only, where it was slower (benchmarks/results/compiled.csv).
        cuda_graphs: on a GPU, replay a step's kernels as CUDA graphs instead of starting them one by one (docs/distributed.md).
        max_bad_steps: steps in a row with a loss that is not finite before the run stops.
        scale_rates: how both peak rates grow with the batch, relative to ``base_batch``: not at all, with it, or with its root.
        base_batch: the batch that lr_student and lr_teacher are meant for.
        parallel: several ranks train one detector after the other together (``data``), or each its own (``categories``);
            ``auto`` takes what should be faster.
        silence: seconds without a sign of life from a rank after which the run stops.
    """

    steps: int = 620
    batch_size: int = 4
    accumulation: int = 1
    lr_student: float = 1e-3
    lr_teacher: float = 1e-4
    weight_decay: float = 1e-4
    warmup: float = 0.05
    forward_only: float = 0.2
    ramp: float = 0.1
    teacher_frozen: float = 0.2
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every: int = 40
    checkpoint_seconds: float = 60.0
    keep_checkpoints: int = 2
    compile: bool = False
    cuda_graphs: bool = True
    max_bad_steps: int = 10
    scale_rates: Literal["none", "linear", "sqrt"] = "none"
    base_batch: int = 4
    parallel: Literal["auto", "data", "categories"] = "auto"
    silence: float = 45.0


@dataclass
class MapConfig:
    """From discrepancies to a map and a score.

    Args:
        combine: how levels are combined after upsampling.
        sigma: of the Gaussian blur, in pixels at 256 px (scaled with the picture); 0 is none.
        score: ``max`` of the map or mean of the ``topk`` largest pixels.
        topk: pixels of the ``topk`` score.
        calibrate_levels: divide each level's discrepancy by its mean on held-out normals, so that no level drowns another
            (sum and mean; a product has no such weights).
        calibrate_channels: the same for the channels of each level: weigh them by the reciprocal of the mean square of what the
            student leaves unexplained on held-out normals.
        fill: raise what high values surround, gaps narrower than 56 pixels at 256 and holes, and a little what surrounds it
            (bikd_fast/models/filling.py).
        shares: of discrepancy, head and distance: the same for all, or ``chosen`` by defects made on held-out normals.
        false_alarms: target share of good pictures above the threshold.
    """

    combine: Literal["sum", "mean", "product"] = "sum"
    sigma: float = 4.0
    score: Literal["max", "topk"] = "max"
    topk: int = 100
    calibrate_levels: bool = True
    calibrate_channels: bool = False
    fill: bool = True
    shares: Literal["fixed", "chosen"] = "fixed"
    false_alarms: float = 0.05


@dataclass
class RunConfig:
    """Everything about a run.

    Args:
        output: the run folder; default runs/NAME-OF-THE-DATA-AND-METHOD.
        seed: of every random choice.
        deepspeed_config: a DeepSpeed JSON file; its keys go before ours.
        resume: ``auto`` goes on from the run folder's newest good checkpoint, ``never`` starts anew; on the command line also
            a run folder, which goes on with its own settings.
        report: write report.html.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    map: MapConfig = field(default_factory=MapConfig)
    output: str | None = None
    seed: int = 0
    deepspeed_config: str | None = None
    resume: Literal["auto", "never"] = "auto"
    report: bool = True


class ConfigError(UserError, ValueError):
    """A setting that cannot work; the message names the key, the value and the remedy."""


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested plain data, ready for YAML or JSON."""
    return asdict(config)


def save(config: RunConfig, path: Path) -> None:
    """Write the YAML view; ``bikd train --config`` takes it as it is."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))
