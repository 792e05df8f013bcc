"""What docs/evidence.md says beside its figures: what each arm is, what others have published, how to read it."""

WHAT = {
    "bikd": "the defaults: both directions, without L_con",
    "f-only": "forward direction only (beta = 0)",
    "half-steps": "half the steps; so has every arm below but stpm, rd and bank",
    "f-only-half-steps": "forward direction only",
    "with-con": "with L_con",
    "no-div": "less L_div: L_anc alone makes no backward direction",
    "no-anc": "less L_anc",
    "wide-margin": "L_div up to 1 - cos = 1 (margin 1)",
    "no-dents": "no simulated dents and bumps",
    "few-stains": "stains simulated half as often",
    "no-foreground": "defects anywhere in the picture",
    "no-cleanup": "labels as drawn, not as seen",
    "no-nuisance": "no harmless noise",
    "no-copies": "no mirrored or turned copies",
    "no-head": "no segmentation head",
    "no-mahalanobis": "no Mahalanobis distance",
    "no-fill": "the map is not filled",
    "no-level-weights": "levels weigh the same",
    "channel-weights": "channels weighed as well",
    "chosen-shares": "shares of the map's parts chosen by defects on held-out pictures",
    "discrepancy": "the discrepancy alone makes the map",
    "f-only-discrepancy": "the same, forward only",
    "stpm": "feature pyramid matching",
    "rd": "reverse distillation",
    "stpm-half-steps": "feature pyramid matching, half the steps",
    "rd-half-steps": "reverse distillation, half the steps",
    "denoising": "denoising student, one way, no head",
    "relation": "FSP matrices of neighbouring levels",
    "dual": "encoder and decoder student",
    "inpainting": "student that restores hidden cells",
    "bank": "nearest normal features, no training",
    "shared": "one detector for all categories with the steps of all",
}
MVTEC_AD = {
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile", "toothbrush"),
    *("transistor", "wood", "zipper"),
}
PUBLISHED = (  # method, image AUROC, pixel AUROC, PRO, teacher, which arm stands for it
    ("BiKD (Neural Computing and Applications 2024)", "97.5", "98.2", "94.8", "not public", "bikd"),
    ("STPM (BMVC 2021)", "95.5", "97.0", "92.8", "ResNet18", "stpm"),
    ("reverse distillation (CVPR 2022)", "98.5", "97.8", "93.9", "WideResNet50", "rd"),
    ("DeSTSeg, student without head (CVPR 2023)", "93.4", "", "", "ResNet18", "denoising"),
    ("DeSTSeg with head (CVPR 2023)", "98.6", "", "", "ResNet18", ""),
    ("self-supervised masking (TMM)", "93.9", "", "", "", "inpainting"),
    ("cosine-similarity distillation (Sci. Rep. 2024)", "99.2", "98.2", "94.7", "", ""),
)
PUBLISHED_BY_ARM = {arm: figures for _, *figures, arm in PUBLISHED if arm}


def published() -> str:
    """The table of what others say of themselves."""
    lines = ["| method | image AUROC | pixel AUROC | PRO | teacher |", "|---|---|---|---|---|"]
    return "\n".join(lines + ["| " + " | ".join(row[:-1]) + " |" for row in PUBLISHED])


STRUCTURE = """An early trial stood at chance on other photographs: with the teacher's channels standardised before the cosine, a
bottleneck student could not rank parquet and felt (docs/method.md). The cosine on the backbone's own features does not
standardise, and levels are weighed by what the student can predict of good pictures instead. Students, head and memory are told
no positions, they take a joint or a brick wherever it lies; the Mahalanobis distance is divided by what is normal at its
position. Mirrored or turned copies are added only where the training set itself shows them to be natural
(bikd_fast/training/mirrors.py). What that does to structured categories (tiles, brick) stands in the tables above. The embedded
set holds no woven category; the third set does (wicker)."""
HEADER = """# Evidence: what each part is worth

Written by `python benchmarks/evidence.py --page` from [benchmarks/results/evidence.csv](../benchmarks/results/evidence.csv);
nobody typed a figure of ours. An arm is a configuration of configs/ with overrides (benchmarks/evidence.py lists them), all
under the same teacher, the same pictures and the same protocol: the last step counts, thresholds and weights come from held-out
good pictures, the test pictures choose nothing within a run. Between runs it was otherwise: the defaults of `bikd` were
developed while looking at the embedded set's results, those of the baselines were not, beyond trials that they learn at all.
The section `mvtec:grounds` is of a third set, other surfaces with other kinds of defects, which anybody can make again
(benchmarks/grounds.txt, with benchmarks/surfaces.py): on it simulated dents, how often stains are simulated, leaving L_con out and
the number of steps were judged, so it is not untouched either, but nearer to ground that nobody has tuned on. The Mahalanobis
distance and the filling of the map were chosen on a second set of the same kinds of defects, by figures that stand in
docs/trials.md. The baselines' maps are not filled. Figures are per cent, mean ± standard deviation over seeds.

`bikd`, `f-only`, `stpm` and `rd` have all steps (620; a bank makes none), every other arm half of them, so what is compared with
each other has as many, but for `half-steps` against `bikd`. A part is worth what `half-steps` is ahead of the arm without it. Arms
that differ from `half-steps` only in what is made after training (the filling, the distance, weights of the map) take up its
networks, so the difference is the part's alone, and say no time of training.

A difference *exceeds the seed noise* here if its mean over seeds is larger than the standard deviation over seeds of both arms and
has the same sign for every seed; with one seed nothing can be said. That is a low bar and no significance test."""
