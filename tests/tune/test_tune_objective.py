"""The objective: its defects, its halves, and that a trial is the job itself. No cluster."""

import ast
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import one_category
from tiny_detector import make_detector

import bikd_fast.search
import bikd_fast.validation
from bikd_fast.arguments import load_run
from bikd_fast.config import MapConfig
from bikd_fast.data.cache import identity
from bikd_fast.errors import UserError
from bikd_fast.inference.calibration import calibrate, measure_good
from bikd_fast.inference.runner import run
from bikd_fast.metrics import evaluate
from bikd_fast.search.measuring import measure, score, variants
from bikd_fast.search.settings import plain
from bikd_fast.search.trial import Trial, own_map, rungs
from bikd_fast.search.validation import labelled, validation
from bikd_fast.training import checkpoint, distributed
from bikd_fast.training.folder import fingerprint
from bikd_fast.training.kept import Kept
from bikd_fast.training.run import train, training_groups
from bikd_fast.validation import defects
from bikd_fast.validation.made import MOST, simulated

GRID = {"sigma": [2.0], "combine": ["product"]}


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


@pytest.fixture(scope="module")
def held_out():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    made = [128 + 50 * np.sin(x / 3 + i) * np.cos(y / 5) + rng.normal(0, 5, (64, 64)) for i in range(6)]
    return torch.tensor(np.stack(made).clip(0, 255).astype(np.uint8))[:, None].expand(-1, 3, -1, -1).contiguous()


def test_defects_change_their_mask_alone_and_visibly(held_out):
    pictures = held_out.permute(0, 2, 3, 1).numpy()
    for kind in defects.DEFECTS:
        for seed in range(6):
            damaged, mask = defects.damage(kind, np.random.default_rng(seed), pictures[0], pictures[1])
            changed = (damaged != pictures[0]).any(2)
            assert mask.any() and mask.mean() < 0.5 and not (changed & ~mask).any(), kind
            assert np.abs(damaged.astype(int) - pictures[0])[mask].mean() > 4, (kind, seed)


def test_defects_stay_on_the_product(held_out):
    product = np.zeros((64, 64), bool)
    product[20:44, 20:44] = True
    picture = held_out[0].permute(1, 2, 0).numpy()
    for kind in defects.DEFECTS:
        _, mask = defects.damage(kind, np.random.default_rng(1), picture, picture[::-1].copy(), product)
        assert not (mask & ~product).any(), kind


def test_defects_share_no_code_with_training_or_the_test_set():
    """By imports: the module knows numpy and scipy only, and nothing in the search knows the embedded set's defects."""
    names = {n for node in ast.walk(ast.parse(inspect.getsource(defects))) for n in _imports(node)}
    assert names <= {"__future__", "collections", "numpy", "scipy"}
    rooms = (bikd_fast.search, bikd_fast.validation)
    for file in (file for room in rooms for file in Path(str(room.__file__)).parent.glob("*.py")):
        assert not any("embedded" in n for node in ast.walk(ast.parse(file.read_text())) for n in _imports(node, whole=True)), (
            file
        )


def _imports(node, whole=False):
    found = (
        [a.name for a in node.names]
        if isinstance(node, ast.Import)
        else [node.module]
        if isinstance(node, ast.ImportFrom)
        else []
    )
    return found if whole else [name.split(".")[0] for name in found]


def test_the_set_is_a_function_of_its_pictures_and_halves_never_mix(held_out):
    one, two = simulated("stripes", held_out), simulated("stripes", held_out)
    assert torch.equal(one.pictures, two.pictures) and (one.masks == two.masks).all()
    assert not torch.equal(one.pictures, simulated("dots", held_out).pictures)
    assert (
        set(one.kinds) == {"good", *defects.DEFECTS}
        and (one.masks.any((1, 2)) == np.array([k != "good" for k in one.kinds])).all()
    )
    for half in (0, 1):
        fitted = {one.pictures[i].numpy().tobytes() for i in one.calibration[half]}
        judged = {one.pictures[i].numpy().tobytes() for i in np.flatnonzero(one.half == half)[:3]}
        assert not fitted & judged  # the first are the normals themselves
    with pytest.raises(UserError, match="stripes: 3 good pictures are held out, and judging needs at least 4"):
        simulated("stripes", held_out[:3])


def test_pictures_of_all_categories_are_taken_where_there_are_too_many():
    """Held-out pictures of several categories lie one category after the other."""
    many = torch.randint(0, 40, (MOST * 3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    many[-MOST:] += 200  # the last category
    normal = simulated("shared", many).pictures[:MOST]
    assert len(normal) == MOST and (normal.float().mean((1, 2, 3)) > 200).sum() == MOST // 3


def test_measuring_is_calibrating_and_running_the_detector_itself(held_out):
    """The replayed levels give, for other map settings too, what a detector built with them gives."""
    data = simulated("stripes", held_out)
    detector = make_detector()
    maps = variants(detector.map_config, {"sigma": [2.0], "combine": ["product"], "score": ["topk"]})
    ran = []
    measure_good(detector, held_out)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    parts = {"backbone": detector.backbone.net, **{name: getattr(detector, name) for name in ("student", "head", "mahalanobis")}}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    found, kept, batches = measure(detector, data, maps), Kept(2**28), -(-len(data.pictures) // 8)
    assert sorted(ran) == sorted([*parts] * batches)  # once, for all maps and both halves
    assert measure(detector, data, maps, kept) == found and measure(detector, data, maps, kept) == found
    assert [ran.count(name) for name in parts] == [2 * batches, *[3 * batches] * 3]
    assert all(torch.equal(v, before[k]) or v.isnan().all() for k, v in detector.state_dict().items())
    coarse = torch.nn.functional.max_pool2d(torch.from_numpy(data.masks).float(), 2).bool().numpy()
    for config, metrics in zip(maps, found):
        real = type(detector)(detector.model_config, config, 64)
        real.backbone.fold()
        real.load_state_dict(detector.state_dict())
        halves = []
        for half in (0, 1):
            mine = data.half == half
            calibrate(real.eval().requires_grad_(False), data.pictures[data.calibration[half]])
            out = run(real, data.pictures[torch.from_numpy(mine)])
            pooled = torch.nn.functional.avg_pool2d(out.maps, 2).numpy()
            halves.append(evaluate(pooled, coarse[mine], scores=out.scores.numpy()))
        for key in ("image_auroc", "pixel_auroc", "aupro"):
            assert metrics[key] == pytest.approx(np.mean([h[key] for h in halves]), abs=1e-9), (config, key)
    assert len({score(m) for m in found}) > 1 and all(0 <= score(m) <= 1 for m in found)


def test_many_labelled_pictures_are_judged_as_by_the_detector_itself(held_out):
    """More of them than a byte counts; those of the calibration are not judged."""
    count = 260
    pictures = held_out[torch.arange(count) % 4].clone()
    pictures[::2, :, 8:16, 8:16] = torch.arange(count // 2, dtype=torch.uint8).view(-1, 1, 1, 1)
    masks = np.zeros((count, 64, 64), bool)
    masks[::2, 8:16, 8:16] = True
    data = labelled(pictures, list(masks), ["x"] * count, held_out[4:])
    detector = make_detector()
    found = measure(detector, data, [detector.map_config])[0]
    calibrate(detector, held_out[4:])
    out = run(detector, pictures)
    coarse = torch.nn.functional.max_pool2d(torch.from_numpy(masks).float(), 2).bool().numpy()
    real = evaluate(torch.nn.functional.avg_pool2d(out.maps, 2).numpy(), coarse, scores=out.scores.numpy())
    for key in ("image_auroc", "pixel_auroc", "aupro"):
        assert found[key] == pytest.approx(real[key], abs=1e-9), key


def test_a_trial_that_was_moved_in_the_middle_is_the_job_itself(tiny_mvtec, tmp_path, ranks):
    """Trained to the first rung, saved, taken up in another folder, finished: `bikd train` with best.yaml makes the same detectors
    to the bit, and they are judged the same."""
    config = one_category(tiny_mvtec, tmp_path / "unused", "--training.steps", "6", "--data.holdout", "0.4")
    config = replace(config, data=replace(config.data, category=["all"]), output=None)
    plan = rungs(["stripes", "dots"], 6, seed=1)
    first = Trial(config, plan, tmp_path / "here", ranks, GRID)
    half = first.advance()
    assert half["rung"] == 1 and not half["finished"] and len(half["metrics"]) == 1
    (tmp_path / "kept").mkdir()
    first.save(tmp_path / "kept")
    second = Trial(config, plan, tmp_path / "there", ranks, GRID)
    second.load(tmp_path / "kept")
    middle = second.advance()
    result = second.advance()
    assert middle["rung"] == 2 and len(middle["metrics"]) == 1
    assert result["finished"] and not result["mixed"] and [r for r, _ in result["curve"]] == [1, 2, 3]
    assert 0 < half["training_seconds"] < middle["training_seconds"] < result["training_seconds"] < result["trial_seconds"]
    assert [step for step, _ in result["losses"][plan[0][0][0]]] == [3, 6]  # a pause has its line, so all steps are timed

    best = own_map(config, result["map"])
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(plain(best)))
    again = train(replace(load_run(tmp_path / "best.yaml"), output=str(tmp_path / "run")), ranks)
    for name in ("stripes", "dots"):
        trial, job = (load_file(f / name / "detector.safetensors") for f in (tmp_path / "there", again))
        learned = [k for k in trial if "threshold" not in k and "channel_weights" not in k]
        assert len(learned) > 50 and all(torch.equal(trial[k], job[k]) for k in learned)
        from bikd_fast.models.detector import Detector

        group = [c for c in _categories(config) if c.name == name]
        data = validation(config, name, group)
        assert measure(Detector.load(again / name), data, [best.map])[0] == result["metrics"][name]


def test_a_trial_goes_on_from_anothers_networks_with_its_own_settings(tiny_mvtec, tmp_path, ranks):
    """As a population does: what it had trained itself is gone, and no config makes what comes of it."""
    config = one_category(tiny_mvtec, tmp_path / "unused", "--training.steps", "6", "--data.holdout", "0.4")
    plan = rungs(["stripes"], 6, parts=3)
    one = Trial(config, plan, tmp_path / "one", ranks)
    two = Trial(replace(config, objective=replace(config.objective, beta=0.5)), plan, tmp_path / "two", ranks)
    for trial in (one, two):
        trial.advance()
    (tmp_path / "kept").mkdir()
    one.save(tmp_path / "kept")
    two.load(tmp_path / "kept")
    group = training_groups(config, _categories(config))[0][1]
    found = [
        checkpoint.newest(trial.folder / "stripes/checkpoints", fingerprint(trial.config, "stripes", identity(group[0].train)))
        for trial in (one, two)
    ]
    assert [one.step for one in found] == [2, 2] and not found[1].warnings
    assert all(torch.equal(value, found[1].tensors[key]) for key, value in found[0].tensors.items())
    result = two.advance()
    assert result["mixed"] and result["rung"] == 2 and [s for s, _ in result["losses"]["stripes"]] == [2, 4]
    assert not one.advance()["mixed"]


def _categories(config):
    from bikd_fast.data import open_dataset

    return open_dataset(config.data.format, Path(config.data.root), config.data.category)


def test_maps_to_try_begin_with_the_trials_own():
    own = MapConfig(sigma=3.0)
    found = variants(own, {"sigma": [2.0, 3.0], "score": ["topk"]})
    assert found == [own, replace(own, sigma=2.0), replace(own, score="topk")]
