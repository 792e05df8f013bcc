from dataclasses import fields, replace

import pytest
import torch
from conftest import object_pool, texture_pool
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bikd_fast.simulation import KindShares, SimulationConfig, Simulator, SourceShares, sample_keys
from bikd_fast.simulation.kinds import KINDS, OFF, ON, ROWS

PLAIN = SimulationConfig(foreground=False)


def only(kind: str, **options) -> SimulationConfig:
    return SimulationConfig(kinds=KindShares(**{k: float(k == kind) for k in KINDS}), foreground=False, **options)


def batch(pool: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    index = torch.arange(count) % len(pool)
    return pool[index].float() / 255, index, sample_keys(seed, 0, torch.arange(count))


def test_table_of_kinds_is_complete() -> None:
    from bikd_fast.simulation.kinds import DEFAULTS

    assert set(ROWS) == {f.name for f in fields(KindShares)}
    assert all(set(row) <= set(DEFAULTS) for row in ROWS.values())
    assert all(low <= high for row in (DEFAULTS, *ROWS.values()) for low, high in row.values())


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("cleanup", [False, True])
def test_the_split_into_batches_does_not_matter(foreground: bool, cleanup: bool) -> None:
    pool, _ = object_pool()
    simulator = Simulator(SimulationConfig(foreground=foreground, cleanup=cleanup), pool, textures=texture_pool(size=128))
    assert (simulator.foreground is not None) == foreground
    images, index, keys = batch(pool, 24)
    whole = simulator(images, index, keys)
    for order in (torch.arange(24).flip(0), torch.arange(24)):
        parts = [simulator(images[i], index[i], keys[i]) for i in order.split([1, 5, 2, 16])]
        for name in ("corrupted", "mask", "nuisance", "kind"):
            assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name)[order]), name


def test_another_key_gives_another_defect(pool: Tensor) -> None:
    simulator = Simulator(PLAIN, pool)
    images, index, _ = batch(pool, 4)
    made = [simulator(images[:1], index[:1], sample_keys(s, e, index[:1])) for s in (0, 1) for e in (0, 1)]
    masks = torch.cat([m.mask for m in made])
    assert len(masks.flatten(1).float().unique(dim=0)) == 4
    assert not torch.equal(made[0].nuisance, made[1].nuisance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("picture", ["texture", "black", "white", "checks", "single"])
def test_every_sample_gets_a_visible_labelled_defect(kind: str, picture: str) -> None:
    pool = texture_pool()
    if picture == "single":
        pool = pool[:1]
    elif picture == "checks":
        checks = (torch.arange(64).view(-1, 1) // 4 + torch.arange(64) // 4) % 2
        pool = (checks * 255).byte().expand(4, 3, 64, 64).contiguous()
    elif picture != "texture":
        pool = torch.full_like(pool, 0 if picture == "black" else 255)
    images, index, keys = batch(pool, 24, seed=3)
    made = Simulator(only(kind), pool)(images, index, keys)
    assert (made.kind == KINDS.index(kind)).all()
    assert made.mask.flatten(1).sum(1).min() >= 4  # pictures of 64 pixels: lengths are a quarter of a 256-pixel one's
    assert made.mask.flatten(1).float().mean(1).max() < 0.6
    assert torch.isfinite(made.corrupted).all()
    assert made.corrupted.min() >= 0
    assert made.corrupted.max() <= 1
    change = (made.corrupted - images).abs().amax(1)
    assert (change[~made.mask] == 0).all()
    share = ((change > 2 / 255) & made.mask).flatten(1).sum(1) / made.mask.flatten(1).sum(1)
    assert share.min() > 0.3
    assert share.mean() > 0.6


def test_blobs_cover_a_position_of_the_coarsest_level() -> None:
    pool = texture_pool(4, size=256)
    images, index, keys = batch(pool, 32)
    for kind in ("blend", "patch"):
        mask = Simulator(only(kind), pool)(images, index, keys).mask
        position = torch.nn.functional.avg_pool2d(mask.unsqueeze(1).float(), 16).flatten(1).amax(1)
        assert (position >= 0.5).float().mean() > 0.8, kind
        assert mask.flatten(1).sum(1).min() >= 128


def test_shares_say_how_often(pool: Tensor) -> None:
    config = replace(PLAIN, kinds=KindShares(**{**dict.fromkeys(KINDS, 0.0), "warp": 3.0, "hole": 1.0}))
    images, index, keys = batch(pool, 400)
    kind = Simulator(config, pool)(images, index, keys).kind
    assert set(kind.tolist()) == {KINDS.index("warp"), KINDS.index("hole")}
    assert 0.68 < (kind == KINDS.index("warp")).float().mean() < 0.82


def test_defects_lie_on_the_object() -> None:
    pool, truth = object_pool()
    images, index, keys = batch(pool, 48)
    found = Simulator(SimulationConfig(), pool)
    assert found.foreground is not None
    made = found(images, index, keys)
    assert not (made.mask & ~found.foreground[index]).float().mean() > 1e-3  # a median may close a notch in the outline
    given = Simulator(SimulationConfig(), pool, foreground=truth)(images, index, keys)
    assert (given.mask & ~truth[index]).flatten(1).sum(1).max() <= 12
    assert given.mask.flatten(1).sum(1).min() >= 8
    off = Simulator(PLAIN, pool, foreground=truth)
    assert off.foreground is None
    assert (off(images, index, keys).mask & ~truth[index]).any()


def test_without_clean_up_the_label_is_the_outline(pool: Tensor) -> None:
    images, index, keys = batch(pool, 40)
    clean = Simulator(PLAIN, pool)(images, index, keys)
    raw = Simulator(replace(PLAIN, cleanup=False), pool)(images, index, keys)
    change = (raw.corrupted - images).abs().amax(1)
    assert (change[~raw.mask] == 0).all()
    assert (raw.mask & (change <= 2 / 255)).any()
    assert raw.mask.sum() > clean.mask.sum()
    assert torch.equal(raw.nuisance, clean.nuisance)


def test_opacity_bounds_the_change() -> None:
    pool = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    images, index, keys = batch(pool, 60)
    faint = Simulator(replace(PLAIN, opacity=(0.15, 0.15)), pool)(images, index, keys)
    assert 0.02 < (faint.corrupted - images).abs().max() <= 0.15 * 0.51
    full = Simulator(replace(PLAIN, opacity=(1.0, 1.0)), pool)(images, index, keys)
    assert (full.corrupted - images).abs().max() > 0.4


def test_coverage_scale_and_feather_do_what_they_say() -> None:
    pool = texture_pool(4, size=128)
    images, index, keys = batch(pool, 32)

    def area(**options) -> float:
        return float(Simulator(replace(only("patch"), **options), pool)(images, index, keys).mask.float().mean())

    assert area(coverage=(0.1, 0.12)) > 1.5 * area(coverage=(0.02, 0.03))
    assert area(scale=2.0) > 1.5 * area(scale=1.0)

    def edge(feather: tuple[float, float]) -> float:
        config = replace(only("stain"), feather=feather, cleanup=False)
        made = Simulator(config, pool)(images, index, keys)
        return float((made.corrupted - images).abs().sum() / made.mask.sum())

    assert edge((0.1, 0.2)) > 1.15 * edge((10.0, 20.0))


def test_content_comes_from_where_the_shares_say() -> None:
    pool = torch.full((3, 3, 64, 64), 100, dtype=torch.uint8)
    textures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    textures[:, 0] = 255
    images, index, keys = batch(pool, 60)

    def redness(shares: SourceShares, given: Tensor | None) -> float:
        config = only("patch", sources=shares, photometric=0.0)
        made = Simulator(config, pool, textures=given)(images, index, keys)
        return float(((made.corrupted[:, 0] - made.corrupted[:, 1]) > 0.3).flatten(1).any(1).float().mean())

    assert 0.1 < redness(SourceShares(0, 1, 0), textures) < 0.45  # a quarter of the patches is foreign
    assert redness(SourceShares(1, 0, 1), textures) == 0
    assert redness(SourceShares(0, 1, 0), None) == 0


def foreign_alone(monkeypatch: pytest.MonkeyPatch, sources: SourceShares) -> SimulationConfig:
    """Every defect is foreign content, neither moved nor turned nor faded: what is seen in a mask is what was fetched."""
    monkeypatch.setitem(ROWS, "patch", {**ROWS["patch"], "foreign": ON, "away": OFF, "turn": OFF, "quarter": OFF, "flip": OFF})
    return only("patch", sources=sources, opacity=(1.0, 1.0), feather=(1e-6, 1e-6), coverage=(0.05, 0.12), cleanup=False)


def test_content_of_another_picture_is_never_the_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = (200 * torch.eye(3)).byte().view(3, 3, 1, 1).expand(3, 3, 64, 64)  # each picture of one colour
    images, index, keys = batch(pool, 48)
    made = Simulator(foreign_alone(monkeypatch, SourceShares(1, 0, 0)), pool)(images, index, keys)
    seen = set()
    for own, shown, mask in zip(index.tolist(), made.corrupted, made.mask):
        colour = (shown[:, mask] * 255).round().unique(dim=1)
        assert colour.shape == (3, 1) and colour.sum() == 200
        seen.add((own, int(colour.argmax())))
    assert seen == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


def test_shuffled_content_is_whole_other_cells_of_the_own_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    cell = y // 8 * 8 + x // 8
    inner = ((y % 8) % 7 > 0) & ((x % 8) % 7 > 0)  # a content's place is rounded: at a cell's border it may be the next one's
    pool = torch.stack((y // 8 * 32, x // 8 * 32, torch.full_like(x, 128))).byte().unsqueeze(0)  # 64 colours
    images, index, keys = batch(pool, 48)
    made = Simulator(foreign_alone(monkeypatch, SourceShares(0, 0, 1)), pool)(images, index, keys)
    moved, scattered = [], 0
    for shown, mask in zip(made.corrupted, made.mask & inner):
        colour = shown[:, mask] * 255
        row, column = (colour[:2] / 32).round()
        assert (colour - torch.stack((row * 32, column * 32, torch.full_like(row, 128)))).abs().max() < 0.1  # a cell's
        here, there = torch.stack((cell[mask], (row * 8 + column).long())).unique(dim=1)
        assert len(here.unique()) == len(there.unique()) == len(here) > 1  # each cell is all of one cell, each of another one
        moved.append((here != there).float().mean())
        scattered += len((there - here).unique()) > 1  # not one piece moved as a whole
    assert torch.stack(moved).mean() > 0.9 and scattered == len(moved)


def test_a_warp_leaves_the_colours_alone() -> None:
    pool = torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    for line in range(3):
        pool[:, 0, line::8] = 200
        pool[:, 1, :, line::8] = 90
    images, index, keys = batch(pool, 24)
    made = Simulator(only("warp"), pool)(images, index, keys)
    warped = (made.corrupted[:, 2] == 0).flatten(1).all(1)  # the others would hardly change and were made brighter
    assert warped.float().mean() > 0.8
    assert made.corrupted[warped, 0].max() <= 200 / 255 + 1e-6
    assert made.corrupted[warped, 1].max() <= 90 / 255 + 1e-6


def test_a_relief_is_bright_on_one_side_and_dark_on_the_other() -> None:
    pool = torch.full((1, 3, 256, 256), 100, dtype=torch.uint8)  # plain: warping it changes nothing, so what is seen is the light
    pool[:, 0] = 50
    simulator = Simulator(only("relief"), pool)
    images, index, keys = batch(pool, 64)
    made = simulator(images, index, keys)
    ratio = (made.corrupted / images).mean(1)
    two_sided = 0
    for sample, mask, factor in zip(made.corrupted, made.mask, ratio):
        bright, dark = ((factor > 1.02) & mask).nonzero().float(), ((factor < 0.98) & mask).nonzero().float()
        if len(bright) and len(dark):
            two_sided += 1
            assert (bright.mean(0) - dark.mean(0)).norm() > 2
            assert (sample[1] / sample[0] - 2).abs().max() < 0.01  # the light has no colour
    assert two_sided > 48  # the faintest become a plain shift of brightness


def test_the_gpu_path_equals_the_cpu_path_and_never_waits() -> None:
    class Waits(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: set[str] = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            if name in ("nonzero", "_local_scalar_dense", "masked_select", "unique", "equal", "lift_fresh"):
                self.names.add(name)
            return func(*args, **(kwargs or {}))

    pool, truth = object_pool()
    simulator = Simulator(SimulationConfig(), pool, truth, texture_pool(size=128))
    images, index, keys = batch(pool, 12)
    compact = simulator(images, index, keys)
    simulator.compact = False
    dense = simulator(images, index, keys)
    for a, b in zip(compact, dense):
        assert torch.equal(a, b)
    with Waits() as waits:
        simulator._maps(images, simulator._draw(images, index, keys))
    assert waits.names == set()


@pytest.mark.parametrize("size", [64, 112, 224])
def test_sizes(size: int) -> None:
    pool = texture_pool(2, size=size // 8 * 8)
    made = Simulator(PLAIN, pool)(*batch(pool, 6))
    assert made.corrupted.shape == (6, 3, size, size)
    assert made.mask.shape == (6, size, size)
    assert made.mask.flatten(1).any(1).all()


def test_wrong_inputs_are_named(pool: Tensor) -> None:
    with pytest.raises(ValueError, match="pool must be"):
        Simulator(PLAIN, pool.float())
    with pytest.raises(ValueError, match="multiple of 16"):
        Simulator(PLAIN, pool[:, :, :50, :50])
    with pytest.raises(ValueError, match="textures must be 64 pixels"):
        Simulator(PLAIN, pool, textures=texture_pool(size=128))
    with pytest.raises(ValueError, match="foreground must be"):
        Simulator(SimulationConfig(), pool, foreground=torch.ones(2, 64, 64, dtype=torch.bool))
    simulator = Simulator(PLAIN, pool)
    images, index, keys = batch(pool, 4)
    with pytest.raises(ValueError, match="expected images"):
        simulator(images, index[:2], keys)


@pytest.mark.parametrize("options", [
    dict(opacity=(0.0, 1.0)), dict(opacity=(0.9, 0.2)), dict(coverage=(0.1, 0.9)), dict(scale=0.0), dict(nuisance=-1.0),
    dict(kinds=KindShares(**dict.fromkeys(KINDS, 0.0))), dict(sources=SourceShares(-1.0, 1.0, 1.0)),
])  # fmt: skip
def test_wrong_configurations_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=f"simulation.{next(iter(options))}"):
        SimulationConfig(**options)
