"""The Triton kernels of draw_defects against the plain form: on a GPU, or interpreted (test_interpreter.py starts that).
"""

import pytest
import torch
from bikd_kernels import draw_defects, lay_out
from bikd_kernels.defects import LATTICE, packed
from draw_cases import case, part
from triton_tests import DEVICE, NEEDS_TRITON, poisoned  # noqa: F401

pytestmark = NEEDS_TRITON


def check(arguments: dict) -> tuple[torch.Tensor, torch.Tensor]:
    depth, content = draw_defects(**arguments, impl="triton")
    expected, expected_content = draw_defects(**arguments, impl="reference")
    assert (depth - expected).abs().max() < 1e-3  # pixels; lengths go up to hundreds
    assert ((depth > 0) != (expected > 0)).float().mean() < 2e-4
    inside = ((depth > 0) & (expected > 0)).unsqueeze(1).expand_as(content)
    assert inside.float().mean() > 0.01
    wrong = (content - expected_content)[inside].abs() > 1e-4
    assert wrong.float().mean() < 1e-3  # a place within rounding of a shuffled piece's edge may fall into the next one
    assert torch.isfinite(content[inside]).all()
    return depth, content


@pytest.mark.parametrize("textures", [False, True])
@pytest.mark.parametrize("foreground", [False, True])
def test_sources_and_masks(textures: bool, foreground: bool) -> None:
    depth, _ = check(case(batch=12, textures=textures, foreground=foreground, seed=int(textures), device=DEVICE))
    assert ((depth == -1).any()) == foreground


def test_rows_may_be_a_view_and_have_to_fit() -> None:
    arguments = case(batch=4, foreground=True, seed=5, device=DEVICE)
    rows = arguments["rows"]
    assert isinstance(rows, torch.Tensor)
    check(arguments | dict(rows=torch.stack([rows, 1 - rows.clamp(max=1)], 1)[:, 0]))
    for wrong in (rows[:3], rows.int()):
        with pytest.raises(ValueError, match=r"rows must be int64 \(4,\)"):
            draw_defects(**arguments | dict(rows=wrong))


@pytest.mark.parametrize("size", [80, 128])  # 80 pixels: tiles of 16
def test_sizes(size: int) -> None:
    check(case(batch=4, size=size, seed=size, device=DEVICE))


def test_what_is_hardly_seen_becomes_a_shift_of_brightness() -> None:
    arguments = case(batch=8, weak=True, foreground=False, seed=3, device=DEVICE)
    depth, content = check(arguments)
    images = arguments["images"]
    assert isinstance(images, torch.Tensor)
    inside = (depth > 0).unsqueeze(1).expand_as(content)
    assert ((content - images)[inside].abs() > 5 / 255).float().mean() > 0.9
    assert (content > images)[inside].any()
    assert (content < images)[inside].any()


def test_the_same_bits_every_time_and_in_any_batch() -> None:
    arguments = case(batch=4, seed=1, device=DEVICE)
    first, again = (draw_defects(**arguments, impl="triton") for _ in range(2))
    alone = [draw_defects(**part(arguments, slice(i, i + 1)), impl="triton") for i in range(4)]
    inside = (first[0] > 0).unsqueeze(1).expand_as(first[1])
    for other in (again, [torch.cat(x) for x in zip(*alone)]):
        assert torch.equal(first[0], other[0])
        assert torch.equal(first[1][inside], other[1][inside])
    assert draw_defects(**part(arguments, slice(0, 0)), impl="triton")[0].shape == (0, 64, 64)


def test_registered_as_torch_wants_it_and_compiles() -> None:
    a = case(batch=2, seed=2, device=DEVICE)
    parameters = packed(a["outline"], a["fill"], (a["opacity"], a["feather"]))
    given = (a["images"], a["low"], a["outline"].noise, parameters, a["fill"].order, a["pool"], a["textures"], a["foreground"])
    checks = ("test_schema", "test_faketensor")  # content is arbitrary outside, so two runs are not compared
    torch.library.opcheck(torch.ops.bikd_kernels.draw_defects.default, (*given, a["rows"]), test_utils=checks)
    compiled = torch.compile(draw_defects, fullgraph=True, backend="aot_eager")(**a, impl="triton")
    whole = draw_defects(**a, impl="triton")
    inside = (whole[0] > 0).unsqueeze(1).expand_as(whole[1])
    assert torch.equal(compiled[0], whole[0])
    assert torch.equal(compiled[1][inside], whole[1][inside])


@pytest.mark.parametrize("grid", [16, 20, 64])
def test_laid_out(grid: int) -> None:
    g = torch.Generator().manual_seed(grid)
    outline = case(batch=8, size=4 * grid, seed=grid, device=DEVICE)["outline"]
    u = torch.rand(8, 3, generator=g)
    exponents = [torch.randint(0, 6, (8, 1), generator=g).float() for _ in range(2)]
    bank = torch.nn.functional.normalize(torch.randn(LATTICE**2, 2, generator=g), dim=1)
    given = (outline, *(x.to(DEVICE) for x in (u, *exponents, bank)), grid)
    noise, depth = lay_out(*given, impl="triton")
    expected, expected_depth = lay_out(*given, impl="reference")
    assert expected.abs().max() > 0.3
    assert (noise - expected).abs().max() < 2e-4  # 32 cells across a picture multiply what is rounded
    assert ((depth - expected_depth).abs() / (1 + expected_depth.abs())).max() < 2e-3
    assert torch.equal(noise, lay_out(*given, impl="triton")[0])
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    arguments = (packed(outline, given[1:4]), given[4], grid)
    torch.library.opcheck(torch.ops.bikd_kernels.lay_out.default, arguments, test_utils=checks)
