"""What each part of the method is worth: every arm x category x seed, one CSV row each, on any data set in a supported layout.

    python benchmarks/evidence.py                                      every arm, seeds 0 1 2, on the embedded textures
    python benchmarks/evidence.py --arms bikd f-only stpm rd bank --seeds 0
    python benchmarks/evidence.py --data.format mvtec --data.root DIR   the same on MVTec AD; any option of `bikd train` goes
    python benchmarks/evidence.py --page                               write docs/evidence.md from the CSV, run nothing

An arm is a configuration (configs/) and overrides. Each (arm, seed) is one run over all categories, started as `make train` does;
what is in the CSV already is kept, an unfinished run goes on from its checkpoint: kill it, start it again. ``--jobs N`` trains N
runs at a time, one process each (times are then those of N neighbours). The page is written whenever a run is done. An arm that
differs from another only in what is made after training takes up what that one has trained, where ``--keep`` left it; how long
it would have trained is then left empty.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import evidence_page
from runs import ROOT, append, launch, read, rows_of

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.config import RunConfig
from bikd_fast.data import open_dataset
from bikd_fast.training.folder import DONE, fingerprint

NO_HEAD = ["--model.head", "false"]
NO_DISTANCE = ["--model.mahalanobis", "false"]
ONE_WAY = ["--objective.beta", "0"]
ARMS: dict[str, tuple[str, list[str]]] = {  # name -> (configuration, overrides)
    "bikd": ("bikd", []),
    "f-only": ("bikd", ONE_WAY),
    "half-steps": ("bikd", []),
    "f-only-half-steps": ("bikd", ONE_WAY),
    "with-con": ("bikd", ["--objective.con", "true"]),
    "no-div": ("bikd", ["--objective.div", "false"]),
    "no-anc": ("bikd", ["--objective.anc", "false"]),
    "wide-margin": ("bikd", ["--objective.margin", "1.0"]),
    "no-dents": ("bikd", ["--simulation.kinds.relief", "0"]),
    "few-stains": ("bikd", ["--simulation.kinds.stain", "1.5"]),
    "no-foreground": ("bikd", ["--simulation.foreground", "false"]),
    "no-cleanup": ("bikd", ["--simulation.cleanup", "false"]),
    "no-nuisance": ("bikd", ["--simulation.nuisance", "0"]),
    "no-copies": ("bikd", ["--data.copies", "false"]),
    "no-head": ("bikd", NO_HEAD),
    "no-mahalanobis": ("bikd", NO_DISTANCE),
    "no-fill": ("bikd", ["--map.fill", "false"]),
    "no-level-weights": ("bikd", ["--map.calibrate_levels", "false"]),
    "channel-weights": ("bikd", ["--map.calibrate_channels", "true"]),
    "chosen-shares": ("bikd", ["--map.shares", "chosen"]),
    "discrepancy": ("bikd", [*NO_HEAD, *NO_DISTANCE]),
    "f-only-discrepancy": ("bikd", [*ONE_WAY, *NO_HEAD, *NO_DISTANCE]),
    "stpm": ("stpm", []),
    "rd": ("rd", []),
    "stpm-half-steps": ("stpm", []),
    "rd-half-steps": ("rd", []),
    "denoising": ("denoising", []),
    "relation": ("relation", []),
    "dual": ("dual", []),
    "inpainting": ("inpainting", []),
    "bank": ("bank", []),
    "shared": ("bikd", ["--model.shared", "true"]),
}
OUTPUT = ROOT / "benchmarks/results/evidence.csv"
KEY = ("data", "categories", "options", "arm", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/evidence", help="where runs are kept until they are done")
    parser.add_argument("--keep", action="store_true", help="keep run folders")
    parser.add_argument("--page", action="store_true", help="write docs/evidence.md and stop")
    options, passed = parser.parse_known_args()
    if not options.page:
        run_all(options, passed)
    if options.output.resolve() == OUTPUT:
        evidence_page.write(read(OUTPUT), list(ARMS))


def run_all(options: argparse.Namespace, passed: list[str]) -> None:
    """Every (seed, arm) that the CSV lacks, seeds outermost: after the first third there is one seed of every arm."""
    described = describe(passed)
    before = read(options.output)
    check_same_set(before, described, passed)
    done = {tuple(row[k] for k in KEY) for row in before}
    wanted = [(arm, seed) for seed in options.seeds for arm in options.arms]
    missing = [(arm, seed) for arm, seed in wanted if (*described, arm, str(seed)) not in done]
    print(f"{len(missing)} of {len(wanted)} runs to do", flush=True)
    lock = threading.Lock()

    def folder_of(arm: str, seed: int) -> Path:
        return options.folder / f"{arm}-seed{seed}-{zlib.crc32(repr(described).encode()):08x}"

    def one(task: tuple[str, int]) -> None:
        arm, seed = task
        run = folder_of(arm, seed)
        there = [other for other in ARMS if other != arm and (folder_of(other, seed) / DONE).is_file()]
        for other in trained_alike(arm, there, passed)[:1]:
            take_up(run, folder_of(other, seed))
        job = launch([*given(arm, passed), "--seed", str(seed), "--output", str(run)], options.jobs)
        rows = [dict(zip(KEY, (*described, arm, seed))) | row for row in rows_of(run, job)]
        with lock:
            append(options.output, rows)
            print(f"{arm} seed {seed}: image AUROC {rows[-1]['image_auroc']:.4f}, {job.seconds:.0f} s", flush=True)
            if options.output.resolve() == OUTPUT:
                evidence_page.write(read(OUTPUT), list(ARMS))
        if not options.keep:
            shutil.rmtree(run)

    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(one, task) for task in missing]
        failed = []
        for task, future in zip(missing, futures):
            try:
                future.result()
            except subprocess.CalledProcessError as error:  # the others can still be had
                failed.append(f"{task[0]} seed {task[1]} (exit code {error.returncode})")
                print(f"FAILED: {failed[-1]}", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} runs failed and are not in the table: {', '.join(failed)}")


def trained_alike(arm: str, others: Sequence[str], passed: Sequence[str]) -> list[str]:
    """Which of ``others`` train the same networks on the same pictures."""
    depends_on = {name: fingerprint(settings(name, passed), "", "") for name in ((arm, *others) if others else ())}
    return [other for other in others if depends_on[other] == depends_on[arm]]


def take_up(run: Path, source: Path) -> None:
    """Give a run that has not begun the checkpoints of another."""
    if not run.exists():
        for found in source.rglob("checkpoints"):
            shutil.copytree(found, run / found.relative_to(source))


def given(arm: str, passed: Sequence[str]) -> list[str]:
    """The arm as options of `bikd train`."""
    config, overrides = ARMS[arm]
    words = ["--config", str(ROOT / f"configs/{config}.yaml"), *passed]
    if arm not in evidence_page.ALL_STEPS:
        words += ["--training.steps", str(parse_run(run_parser("evidence", ""), words).training.steps // 2)]
    return [*words, *overrides]


def settings(arm: str, passed: Sequence[str]) -> RunConfig:
    """What a run of this arm would be."""
    return parse_run(run_parser("evidence", ""), given(arm, passed))


def check_same_set(rows: Sequence[dict[str, str]], described: tuple[str, str, str], passed: Sequence[str]) -> None:
    """End where the CSV has rows of another data set under the same name, which is that of its folder."""
    data = settings("bikd", passed).data
    ours = {c.name for c in open_dataset(data.format, Path(data.root) if data.root else None, data.category)}
    theirs = {row["category"] for row in rows if (row["data"], row["categories"]) == described[:2]} - {"mean"}
    if theirs and theirs != ours:
        raise SystemExit(
            f"The table has rows of {described[0]} with other categories ({', '.join(sorted(theirs ^ ours)[:3])}): another data "
            "set. Rename one of the folders, or give another --output."
        )


def describe(passed: Sequence[str]) -> tuple[str, str, str]:
    """(data, categories, options): which rows of the CSV a run of these options belongs with; "" are the defaults."""
    run = settings("bikd", passed)
    named = "" if run.data.category == ["all"] else " ".join(run.data.category)
    data = run.data.format + (f":{Path(run.data.root).name}" if run.data.root else "")
    others, skip = [], False
    for word in passed:
        if word.startswith("--"):
            skip = word.split("=")[0] in ("--data.format", "--data.root", "--data.category")
        if not skip:
            others.append(word)
    return data, named, " ".join(others)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
