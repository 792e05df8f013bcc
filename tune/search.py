"""Search: `python tune/search.py --trials N --output DIR [any option of bikd train]`; `--resume DIR` goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script, its folder is there, not the one above

from bikd_fast.arguments import guarded, parse_run, run_parser
from bikd_fast.config import ConfigError, RunConfig
from bikd_fast.config_checks import check
from bikd_fast.homes import there_or_from_home
from tune import space as spaces
from tune.state import STATE, Options, taken_up


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, search, measure the gain, write what comes out; 1 if no trial came to a result, 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, base, resumed = parse(words)
    from bikd_fast.training.folder import alone
    from tune.drive import gain, search
    from tune.outputs import write

    folder = Path(options.output)
    with alone(folder, "searches"):
        done = search(options, base, resumed)
        found = write(folder)
        if found.best is None and done:
            print(f"error: no trial came to a result; {folder / 'trials.csv'} has their reasons.", file=sys.stderr)
            return 1
        if found.best is not None and done and options.gain_seeds:
            done = gain(options, base, found.best)
            found = write(folder)
    if found.best is not None:
        print(f"best     {folder / 'best.yaml'}: {found.holds}")
    print(f"trials   {folder / 'trials.csv'}\npage     {folder / 'search.html'}")
    if not done:
        print(f"interrupted; `python tune/search.py --resume {folder}` goes on.", file=sys.stderr)
        return 130
    return 0


def parse(words: Sequence[str]) -> tuple[Options, dict[str, Any], bool]:
    """(options, settings of the job as plain data, whether a search is taken up).

    Raises:
        ConfigError: what cannot work, before anything is started.
    """
    from bikd_fast.search.settings import plain
    from bikd_fast.search.trial import groups_of
    from bikd_fast.search.validation import foresee

    parser = _parser()
    given, rest = parser.parse_known_args(words)
    if "-h" in rest or "--help" in rest:
        parser.print_help()
        print("\nand every option of `bikd train` (bikd train --help): they describe the job that is searched for.")
        raise SystemExit(0)
    if given.resume is not None:
        return _taken_up(given, words, rest)
    if given.output is None:
        raise ConfigError("output: name the folder that the search is to fill: --output DIR.")
    chosen: dict[str, Any] = vars(given) | {"first": tuple(str(there_or_from_home(file).resolve()) for file in given.first)}
    options = Options(**{key: value for key, value in chosen.items() if key != "resume"})
    for key in ("space", "storage", "validation"):  # it may be taken up from another folder
        path = getattr(options, key)
        if path and "://" not in path:
            setattr(options, key, str(there_or_from_home(path).resolve()))
    if (Path(options.output) / STATE).is_file():
        raise ConfigError(
            f"output: {options.output} holds a search. Go on with --resume {options.output}, or name another folder."
        )
    if options.trials < 1 or options.ranks_per_trial < 1 or min(options.gain_seeds, options.categories) < 0:
        raise ConfigError("trials and ranks-per-trial must be at least 1, gain-seeds and categories at least 0.")
    if options.latency and options.searcher != "optuna":
        raise ConfigError("latency: two objectives need --searcher optuna.")
    if options.scheduler == "pbt" and (options.searcher != "random" or options.ranks_per_trial > 1):
        raise ConfigError("scheduler: pbt changes settings by itself, in one process a trial; no --searcher, no --ranks-per-trial.")
    if (options.objective == "labelled") != (options.validation is not None):
        raise ConfigError("objective: labelled and --validation DIR (your labelled pictures) belong together.")
    config = absolute(replace(parse_run(run_parser("tune/search.py", ""), rest), output=None, resume="auto"))
    check(config)
    # the embedded set is written before workers ask for it, and a missing one is told now
    foresee(config, groups_of(config), options.validation)
    base = plain(config)
    space, maps = spaces.load(Path(options.space) if options.space else None, options.latency)
    spaces.first_points(space, base, [])
    spaces.check_ends(space, maps, base)
    return options, base, False


def absolute(config: RunConfig) -> RunConfig:
    """Relative paths are of this process's folder; workers have another."""

    def whole(path: str | None) -> str | None:
        return str(there_or_from_home(path).resolve()) if path else path

    data, weights = config.data, config.model.weights
    return replace(
        config,
        data=replace(data, root=whole(data.root), textures=whole(data.textures), cache_dir=whole(data.cache_dir)),
        model=replace(config.model, weights=str(whole(weights)) if Path(weights).is_file() else weights),
        deepspeed_config=whole(config.deepspeed_config),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tune/search.py", description=__doc__, allow_abbrev=False, add_help=False)
    add = parser.add_argument
    add("--trials", type=int, default=Options.trials, help="settings to try; default %(default)s")
    add("--output", help="folder for best.yaml, trials.csv, search.html")
    add("--resume", metavar="DIR", help="go on with the search in DIR")
    add(
        "--scheduler",
        choices=("asha", "pbt"),
        default="asha",
        help="which trials go on: successive halving, or a population; default %(default)s",
    )
    add("--searcher", choices=("random", "optuna"), default="random", help="what is tried next; default %(default)s")
    add(
        "--objective",
        choices=("simulated", "labelled"),
        default="simulated",
        help="what trials are judged by; default %(default)s",
    )
    add("--validation", metavar="DIR", help="labelled pictures, laid out as data.format, for --objective labelled")
    add("--space", metavar="FILE", help="YAML that narrows or widens what is searched (docs/search.md)")
    add(
        "--first",
        nargs="*",
        default=[],
        metavar="FILE",
        help="settings (YAML) to try first, best_trial.yaml of another search for one",
    )
    add(
        "--categories",
        type=int,
        default=Options.categories,
        help="most categories that a trial trains, 0: all of the job's; default %(default)s",
    )
    add("--latency", action="store_true", help="also prefer fast detectors; needs --searcher optuna")
    add(
        "--gain-seeds",
        type=int,
        default=Options.gain_seeds,
        help="new seeds that best and default are trained with, 0: no gain; default %(default)s",
    )
    add("--address", help="of a Ray cluster; default RAY_ADDRESS, else one is started here")
    add("--storage", help="folder visible on every node, or a bucket (s3://...); default DIR/ray")
    add("--gpus-per-trial", type=float, help="may be a fraction; default 1 where there are GPUs")
    add(
        "--ranks-per-trial",
        type=int,
        default=1,
        help="processes a trial; several are a Ray Train worker group under DeepSpeed; default %(default)s",
    )
    return parser


def _taken_up(given: argparse.Namespace, words: Sequence[str], rest: Sequence[str]) -> tuple[Options, dict[str, Any], bool]:
    if not (Path(given.resume) / STATE).is_file():
        raise ConfigError(f"resume: {given.resume} holds no search (no {STATE} there).")
    others = [word for word in words if word.startswith("--") and word.partition("=")[0] not in ("--resume", "--address")]
    if others or rest:
        raise ConfigError(f"resume: a search goes on with its own settings; leave out {' '.join(dict.fromkeys([*others, *rest]))}.")
    options, base = taken_up(Path(given.resume))
    if given.address:
        options.address = given.address
    return options, base, True


if __name__ == "__main__":
    sys.exit(guarded(main))
