import torch
from bikd_kernels.defects import Pixels, all_pixels, rows_of
from bikd_kernels.reference.draw_defects import pixel_depth, upsample_at
from bikd_kernels.reference.lay_out import perlin

from bikd_fast.simulation import SimulationConfig, sample_keys
from bikd_fast.simulation.kinds import DEFAULTS, NAMES, Draw
from bikd_fast.simulation.masks import PERLIN, draw_outlines, gradient_bank, pixels_inside
from bikd_fast.simulation.random import uniform

CPU = torch.device("cpu")


def drawn(count: int, **numbers: float) -> Draw:
    values = torch.tensor([[numbers.get(name, sum(DEFAULTS[name]) / 2) for name in NAMES]]).repeat(count, 1)
    return Draw(torch.zeros(count, dtype=torch.int64), values)


def depth_of(draw: Draw, size: int = 64, seed: int = 0, compact: bool = False):
    count = len(draw.values)
    keys = sample_keys(seed, 0, torch.arange(count))
    middle = torch.full((count, 1), (size - 1) / 2)
    config = SimulationConfig()
    o = draw_outlines(keys, draw, config.coverage, 1.0, (middle, middle), None, size, gradient_bank(CPU))
    pixels = pixels_inside(o, None, size) if compact else all_pixels(count, size, CPU)
    depth = torch.full((count, size * size), -1.0)
    plane = pixels.sample.unsqueeze(1) * size * size + pixels.flat
    depth.view(-1)[plane] = pixel_depth(rows_of(o, pixels.sample), pixels)
    return depth.view(count, size, size), o


def test_perlin_is_centred_smooth_and_as_fine_as_asked() -> None:
    keys = sample_keys(0, 0, torch.arange(64))
    crossings = []
    for exponent in (1.0, 3.0, 5.0):
        e = torch.full((64, 1), exponent)
        noise = perlin(uniform(keys, PERLIN), e, e, 128, gradient_bank(CPU))
        assert noise.mean().abs() < 0.05
        assert noise.abs().max() < 1.01
        assert 0.1 < noise.std() < 0.4
        crossings.append(float((noise[:, 1:].sign() != noise[:, :-1].sign()).float().mean()))
    assert crossings[0] * 2.5 < crossings[1]
    assert crossings[1] * 2.5 < crossings[2]


def test_perlin_axes_have_their_own_exponent_and_are_turned() -> None:
    keys = sample_keys(1, 0, torch.arange(200))
    noise = perlin(uniform(keys, PERLIN), torch.full((200, 1), 4.0), torch.full((200, 1), 1.0), 64, gradient_bank(CPU))
    along = (noise[:, 1:] - noise[:, :-1]).square().mean((1, 2))
    across = (noise[:, :, 1:] - noise[:, :, :-1]).square().mean((1, 2))
    ratio = (along / across).log()
    assert ratio.std() > 1  # some run one way, some the other
    assert ratio.mean().abs() < 0.4


def test_an_ellipse_and_a_box_have_their_measures() -> None:
    for box, factor in ((1.0, 4.0), (-1.0, torch.pi)):
        depth, o = depth_of(drawn(20, noisy=-1, box=box, width=32.0, aspect=1.0, wobble=-1.0), size=128)
        area = (depth > 0).flatten(1).sum(1)
        expected = factor * (o.width * o.length).squeeze(1)
        assert o.width[0] == 16
        assert o.length[0] == 32
        assert ((area - expected).abs() / expected).max() < 0.03
        assert (depth.flatten(1).amax(1) - 16).abs().max() < 1


def test_a_curve_is_as_thin_as_asked_however_it_bends() -> None:
    depth, _ = depth_of(drawn(30, noisy=-1, box=1.0, width=3.0, aspect=4.5, wobble=-1, sag=0.4, wave=0.1), size=256)
    inside = depth > 0
    # an opening by a square as wide as the line removes it
    eroded = -torch.nn.functional.max_pool2d(-inside.float().unsqueeze(1), 9, stride=1)
    assert inside.flatten(1).sum(1).min() > 200
    assert eroded.sum() == 0


def test_noise_is_cut_at_the_drawn_coverage() -> None:
    low, high = SimulationConfig().coverage
    for cover in (0.5, 1.0):
        depth, _ = depth_of(drawn(24, noisy=1, cover=cover, exponent_y=2.0, exponent_x=2.0, local=-1.0), size=256)
        share = (depth > 0).float().mean((1, 2))
        wanted = low * (high / low) ** cover
        assert (share > 0.75 * wanted).all()
        assert share.median() < 1.6 * wanted


def test_no_pixel_inside_is_missed_by_the_compact_search() -> None:
    g = torch.Generator().manual_seed(0)
    low = torch.tensor([DEFAULTS[n][0] for n in NAMES])
    span = torch.tensor([DEFAULTS[n][1] for n in NAMES]) - low
    draw = Draw(torch.zeros(64, dtype=torch.int64), low + torch.rand(64, len(NAMES), generator=g) * span)
    draw.values[:32, NAMES.index("width")] = 3 * torch.rand(32, generator=g)
    draw.values[:32, NAMES.index("aspect")] = 5 * torch.rand(32, generator=g)
    draw.values[:32, NAMES.index("sag")] = torch.rand(32, generator=g) - 0.5
    draw.values[:32, NAMES.index("wave")] = 0.3 * (torch.rand(32, generator=g) - 0.5)
    whole, _ = depth_of(draw, size=128)
    compact, _ = depth_of(draw, size=128, compact=True)
    assert torch.equal(whole.clamp(min=0), compact.clamp(min=0))


def test_upsampling_is_bilinear() -> None:
    coarse = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(32).repeat_interleave(32).view(-1, 16)
    x = torch.arange(32).repeat(32).view(-1, 16)
    for b in range(2):
        pixels = Pixels(torch.full((64,), b), y.float(), x.float(), y * 32 + x)
        expected = torch.nn.functional.interpolate(coarse[b : b + 1], size=32, mode="bilinear")[0]
        got = upsample_at(coarse, pixels).view(3, 32, 32)
        assert torch.allclose(got, expected, atol=1e-5)
