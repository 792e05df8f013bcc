"""The space and what becomes of drawn values. No cluster."""

import pytest
import yaml
from ray.tune.search.variant_generator import _get_preset_variants

from bikd_fast.arguments import load_run
from bikd_fast.config import ConfigError, RunConfig, TrainingConfig
from bikd_fast.config_checks import check
from bikd_fast.search.settings import TEACHER_RATE, apply, plain, read
from bikd_fast.search.trial import rungs
from tune.schedule import clipped, scheduler
from tune.search import _parser
from tune.space import KNOWN, MAPS, SPACE, Choice, Range, check_ends, first_points, inside, load, to_ray

BASE = plain(RunConfig())


def test_every_default_stands_in_the_help():
    chosen = [action for action in _parser()._actions if action.default not in (None, False, [])]
    assert len(chosen) == 7 and all("default %(default)s" in action.help for action in chosen)


def test_defaults_lie_inside_and_every_corner_makes_settings_that_can_work():
    for key, entry in SPACE.items():
        assert inside(entry, read(BASE, key)), key
        assert entry.why, key
    for end in (0, -1):
        corner = {
            key: (entry.values[end] if isinstance(entry, Choice) else (entry.low, entry.high)[end])
            for key, entry in SPACE.items()
        }
        if end == 0:  # a share has to be left
            corner["simulation.kinds.hole"] = 1.0
        config = apply(BASE, corner)
        check(config)
        assert all(read(plain(config), key) == pytest.approx(value) for key, value in corner.items())


def test_drawn_values_reach_their_settings_and_nothing_else():
    values = {"objective.beta": 0.123456, "simulation.coverage.1": 0.2, "simulation.kinds.warp": 0.0, TEACHER_RATE: 0.05}
    made = plain(apply(BASE, values | {"training.lr_student": 0.002, "map.sigma": 6.0}))
    assert made["objective"]["beta"] == 0.123  # three digits: the YAML says all of it
    assert made["simulation"]["coverage"] == [0.004, 0.2] and made["simulation"]["kinds"]["warp"] == 0.0
    assert made["training"]["lr_teacher"] == 1e-4 and made["map"]["sigma"] == 6.0
    assert plain(apply(BASE, {})) == BASE
    with pytest.raises(ConfigError, match=r"objective.betta: there is no such setting"):
        apply(BASE, {"objective.betta": 0.1})
    with pytest.raises(ConfigError, match="make no settings"):
        apply(BASE, {"objective.beta": "much"})


def test_settings_survive_yaml_to_the_bit(tmp_path):
    config = apply(BASE, {"training.lr_student": 0.000437, TEACHER_RATE: 0.0333, "simulation.opacity.0": 0.0777})
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(plain(config)))
    assert load_run(tmp_path / "best.yaml") == config


def test_first_trials_are_the_defaults_then_what_is_known():
    points = first_points(SPACE, BASE, [plain(apply(BASE, {"objective.beta": 0.45}))])
    assert points[0] == {key: read(BASE, key) for key in SPACE}
    assert plain(apply(BASE, points[0])) == BASE
    assert [p["objective.beta"] for p in points] == [0.3, 0.0, 0.3, 0.45] and len(points) == 2 + len(KNOWN)
    narrow = {"objective.beta": Range(0.4, 0.5)}
    with pytest.raises(ConfigError, match=r"objective\.beta: the job's own value 0\.3 lies outside"):
        first_points(narrow, BASE, [])


def test_a_value_of_first_outside_its_range_is_said(capsys):
    space = {"objective.beta": Range(0.2, 0.4), "training.lr_student": Range(1e-6, 1.0)}
    own, *_, point = first_points(space, BASE, [plain(apply(BASE, {"objective.beta": 0.45, "training.lr_student": 0.02}))])
    assert point == own | {"training.lr_student": 0.02}
    assert "objective.beta: 0.45 lies outside" in (said := capsys.readouterr().out) and "0.3, the job's own" in said


def test_a_file_narrows_widens_and_removes(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "objective.beta: [0.1, 0.4]\nmodel.size: [0.25, 1, log]\nobjective.margin: null\nmap.sigma: [3]\n"
        "simulation.foreground: {values: [true]}\n"
    )
    space, maps = load(file)
    assert space["objective.beta"] == Range(0.1, 0.4) and space["model.size"] == Range(0.25, 1.0, log=True)
    assert "objective.margin" not in space and maps["sigma"] == [3] and maps["combine"] == list(MAPS["combine"])
    assert space["simulation.foreground"] == Choice((True,))
    check_ends(space, maps, BASE)
    faults = ("objective.beta: [0.4, 0.1]", "objective.beta: 3", "map.sigmoid: [1]", "- a", "model.size: [0, 1, log]")
    for wrong in (*faults, "map.sigma: 3", "3: 4", "\udcff\udcfe"):
        file.write_text(wrong, errors="surrogateescape")
        with pytest.raises(ConfigError, match="space"):
            load(file)


@pytest.mark.parametrize(
    "entry",
    ["map.sigma: [3, -1]", "map.combine: [zz]", "map.sigma: [wide]", "objective.beta: [0, 1.5]", "model.depth: {values: [1, 0]}"],
)
def test_what_a_file_adds_is_tried_before_anything_starts(tmp_path, entry):
    (tmp_path / "space.yaml").write_text(entry)
    with pytest.raises(ConfigError, match=f"space: {entry.split(':')[0]}: .* cannot be tried"):
        check_ends(*load(tmp_path / "space.yaml"), BASE)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("simulation.coverage: [0.01, 0.2]\nsimulation.coverage.1: null", "own value .* is no number"),
        ("simulation.coverage: {values: [[0.004, 0.12], [0.01, 0.2]]}", "and simulation.coverage.1 set the same"),
        ("training.lr_teacher: [1e-5, 1e-4, log]", "training.teacher_rate set the same"),
        ("objective.bta: null", "objective.bta: there is no such setting"),
        ("data.holdout: [0.1, 0.3]", "data.holdout: it changes the pictures that trials are judged by"),
    ],
    ids=["list", "part", "rate", "removed", "judged"],
)  # fmt: skip
def test_what_would_do_nothing_or_judge_unalike_is_told(tmp_path, entry, said):
    (tmp_path / "space.yaml").write_text(entry)
    with pytest.raises(ConfigError, match=said):
        first_points(load(tmp_path / "space.yaml")[0], BASE, [])


def test_a_list_is_drawn_as_a_whole(tmp_path):
    (tmp_path / "space.yaml").write_text("model.strides: {values: [[4, 8, 16], [8, 16, 32]]}\nmodel.size: {values: [0.25, 0.5]}")
    space, maps = load(tmp_path / "space.yaml")
    check_ends(space, maps, BASE)
    points = first_points(space, BASE, [plain(apply(BASE, {"model.strides": [8, 16, 32]}))])
    assert [apply(BASE, point).model.strides for point in (points[0], points[-1])] == [[4, 8, 16], [8, 16, 32]]
    for point in points:
        ((_, drawn),) = _get_preset_variants({"config": to_ray(space)}, point)  # as Ray begins a trial
        assert drawn["config"] == point


def test_numbers_are_read_as_a_job_reads_them(tmp_path):
    (tmp_path / "space.yaml").write_text("training.lr_student: [1e-4, 1E-2, log]\ntraining.weight_decay: {values: [1e-4, 1.e-3]}")
    space = load(tmp_path / "space.yaml")[0]
    assert space["training.lr_student"] == Range(1e-4, 1e-2, log=True) and space["training.weight_decay"] == Choice((1e-4, 1e-3))


def test_a_student_that_stands_still_has_no_rate_to_search():
    still = plain(RunConfig(training=TrainingConfig(lr_student=0.0, lr_teacher=0.0)))
    with pytest.raises(ConfigError, match=r"training\.lr_student: the job's own value 0\.0 lies outside"):
        first_points(SPACE, still, [])


def test_rungs_are_parts_of_one_training():
    assert rungs(["a"], 300) == [[("a", 150)], [("a", 300)]]
    plan = rungs(list("abcdef"), 300, seed=3)
    assert [len(rung) for rung in plan] == [1, 1, 6] and plan[0][0][1] == 150
    assert plan[0][0][0] == plan[1][0][0] and plan[2][:1] == plan[1] and {s for _, s in plan[2]} == {300}
    assert rungs(list("abcdef"), 300, seed=3, most=3)[2] == plan[2][:3]
    assert rungs(list("ab"), 10, whole=True)[0] == [(n, 10) for n, _ in rungs(list("ab"), 10)[-1]]
    assert rungs(["a"], 1) == [[("a", 1)]]


def test_a_population_has_equal_parts_of_the_schedule_in_the_same_categories():
    plan = rungs(list("abcdef"), 310, seed=3, most=2, parts=5)
    assert [{s for _, s in rung} for rung in plan] == [{62}, {124}, {186}, {248}, {310}]
    assert len({tuple(name for name, _ in rung) for rung in plan}) == 1 and len(plan[0]) == 2
    assert rungs(["a"], 3, parts=5) == [[("a", 1)], [("a", 2)], [("a", 3)]]


def test_what_a_population_changes_stays_inside_the_space():
    space = {"objective.beta": Range(0.0, 0.6), "simulation.scale": Range(0.5, 2.0), "simulation.foreground": Choice((True,))}
    values = {"objective.beta": 0.72, "simulation.scale": 0.4, "simulation.foreground": True, "training.lr_student": 7.0}
    assert clipped(space, values) == values | {"objective.beta": 0.6, "simulation.scale": 0.5}
    mutations = scheduler("pbt", dict(SPACE), 5, None, {})._hyperparam_mutations
    assert mutations["simulation.foreground"] == [True, False]  # a sampler's value would be multiplied
    assert "objective.beta" in mutations and not any(key.startswith("model.") for key in mutations)
