"""Every colour mode decodes to the RGB a person would see; every broken file gives one error that names it."""

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from bikd_fast.data import DataError, decode_image, decode_mask, picture_array, picture_size

TURNS = {  # by EXIF orientation, what makes the stored picture upright
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def saved_rgb16(path, value):
    tifffile.imwrite(path, np.full((3, 2, 3), value, np.uint16), photometric="rgb")
    return path


def test_gray_is_repeated(tmp_path):
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    rgb = decode_image(saved(tmp_path / "g.png", Image.fromarray(values)))
    assert rgb.dtype == np.uint8 and rgb.shape == (6, 8, 3)
    assert all((rgb[:, :, c] == values).all() for c in range(3))


def test_rgb_keeps_channel_order(tmp_path):
    rgb = decode_image(saved(tmp_path / "c.png", Image.new("RGB", (4, 3), (10, 20, 30))))
    assert (rgb == (10, 20, 30)).all()


@pytest.mark.parametrize(("alpha", "expected"), [(255, (200, 100, 50)), (0, (0, 0, 0)), (51, (40, 20, 10))])
def test_transparency_goes_over_black(tmp_path, alpha, expected):
    rgb = decode_image(saved(tmp_path / "t.png", Image.new("RGBA", (4, 3), (200, 100, 50, alpha))))
    assert np.abs(rgb.astype(int) - expected).max() <= 1


def test_gray_with_alpha(tmp_path):
    rgb = decode_image(saved(tmp_path / "la.png", Image.new("LA", (4, 3), (200, 0))))
    assert (rgb == 0).all()


def test_palette_with_a_transparent_entry(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    picture = picture.convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    assert decode_image(saved(tmp_path / "p.png", picture))[0].tolist() == [[255, 0, 0], [0, 255, 0]]
    clear = decode_image(saved(tmp_path / "pt.png", picture, transparency=0))
    assert clear[0].tolist() == [[0, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    path = saved(tmp_path / f"k.{suffix}", Image.new("CMYK", (16, 16), (0, 255, 255, 0)))
    red = decode_image(path)[8, 8].astype(int)
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_gray_is_divided_by_257(tmp_path, suffix):
    values = np.array([[0, 128, 200, 257, 32896, 65535]], np.uint16)
    rgb = decode_image(saved(tmp_path / f"d.{suffix}", Image.fromarray(values)))
    assert rgb[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_sixteen_bit_colour(tmp_path, raw_png):
    row = np.array([0x8080, 0x4040, 0xFFFF], ">u2").tobytes()
    path = tmp_path / "c16.png"
    path.write_bytes(raw_png(1, 1, 16, 2, b"\0" + row))
    assert decode_image(path)[0, 0].tolist() == [0x80, 0x40, 0xFF]


def test_twelve_bits_in_sixteen_warn(tmp_path):
    path = saved(tmp_path / "dark.png", Image.fromarray(np.full((4, 4), 4000, np.uint16)))
    with pytest.warns(UserWarning, match=r"dark\.png.*4000"):
        decode_image(path)


@pytest.mark.parametrize(("colour", "values"), [(2, (3, 300, 4000)), (4, (4000, 65535)), (6, (4000, 3, 3, 65535))])
def test_twelve_bits_of_colour_in_sixteen_warn(tmp_path, raw_png, colour, values):
    (tmp_path / "dark.png").write_bytes(raw_png(1, 1, 16, colour, b"\0" + np.array(values, ">u2").tobytes()))
    with pytest.warns(UserWarning, match=r"dark\.png.*3840"):
        assert decode_image(tmp_path / "dark.png").max() == 15


def test_twelve_bits_of_tiff_colour_in_sixteen_warn(tmp_path):
    path = saved_rgb16(tmp_path / "dark.tif", 4000)
    with pytest.warns(UserWarning, match=r"dark\.tif.*3840"):
        assert (decode_image(path) == 15).all()


def test_planes_of_sixteen_bits_are_read_or_refused(tmp_path):
    """Pillow scrambles them where they are not compressed."""
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for name, depth, options in (("8", 1, {}), ("16", 257, {}), ("16z", 257, {"compression": "zlib"})):
        planes = (values.transpose(2, 0, 1).astype(np.uint16) * depth).astype(np.uint8 if depth == 1 else np.uint16)
        tifffile.imwrite(tmp_path / f"{name}.tif", planes, photometric="rgb", planarconfig="separate", **options)
    assert np.array_equal(decode_image(tmp_path / "8.tif"), values) and np.array_equal(decode_image(tmp_path / "16z.tif"), values)
    for read in (decode_image, lambda path: decode_mask(path, None), lambda path: picture_array(Image.open(path), path)):
        with pytest.raises(DataError, match=r"16\.tif: uncompressed planes of 16-bit colour.*Save it"):
            read(tmp_path / "16.tif")


def test_full_sixteen_bits_of_colour_do_not_warn(tmp_path, recwarn):
    assert (decode_image(saved_rgb16(tmp_path / "bright.tif", 0x8012)) == 0x80).all() and not recwarn.list


@pytest.mark.parametrize(("white", "values"), [(65535, [0, 32896, 65535]), (1.0, [0, 0.5, 1])])
def test_a_deep_gray_tiff_whose_zero_is_white(tmp_path, white, values):
    stored = white - np.array([values], np.uint16 if white == 65535 else np.float32)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    path = saved(tmp_path / "w.tif", Image.fromarray(stored), tiffinfo=tags)
    assert decode_image(path)[0, :, 0].tolist() == [0, 128, 255]
    assert decode_mask(path, (1, 3)).tolist() == [[False, True, True]]


def test_float_pictures(tmp_path):
    path = saved(tmp_path / "f.tif", Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))
    assert decode_image(path)[0, :, 0].tolist() == [0, 128, 255]
    bad = saved(tmp_path / "g.tif", Image.fromarray(np.array([[0, 200.0]], np.float32)))
    with pytest.raises(DataError, match=r"g\.tif.*200.*expected 0 to 1"):
        decode_image(bad)
    nan = saved(tmp_path / "n.tif", Image.fromarray(np.array([[0, np.nan]], np.float32)))
    with pytest.raises(DataError, match=r"n\.tif"):
        decode_image(nan)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, "top left"), (3, "bottom right"), (6, "top right"), (8, "bottom left")]
)
def test_exif_orientation(tmp_path, orientation, corner):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "e.jpg", Image.fromarray(pixels), exif=exif, quality=95)
    rgb = decode_image(path)
    assert rgb.shape[:2] == picture_size(path) == ((32, 16) if orientation in (6, 8) else (16, 32))
    row = 2 if "top" in corner else -3
    column = 2 if "left" in corner else -3
    assert rgb[row, column, 0] > 200 and rgb[..., 0].mean() < 100


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize(("mode", "planes"), [("L", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 4)])
def test_tiff_orientation(tmp_path, put_mask, mode, planes, compression):
    values = np.random.default_rng(0).integers(0, 255, (5, 8, planes), dtype=np.uint8)
    values[..., 3:] = 255
    stored = values.astype(np.uint16) * 257 if mode == "I;16" else values
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = tmp_path / f"{orientation}.tif"
        path = saved(name, Image.fromarray(stored.squeeze()), exif=exif, compression=compression)
        upright = turn(values[..., :3])
        assert np.array_equal(decode_image(path), np.broadcast_to(upright, (*upright.shape[:2], 3))), orientation
        assert picture_size(path) == upright.shape[:2]
        height, width = picture_size(path)
        assert decode_mask(put_mask("upright.png", (width, height)), picture_size(path)).shape == upright.shape[:2]


def test_decoded_array_is_ours_to_write(tmp_path):
    rgb = decode_image(saved(tmp_path / "w.png", Image.new("RGB", (4, 3))))
    rgb += 1
    assert rgb.flags.c_contiguous and (rgb == 1).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_file(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"cut.{suffix}", Image.fromarray(noise))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: .*(again|remove)"):
        decode_image(path)


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"not a picture", "13 bytes are no picture")])
def test_not_a_picture(tmp_path, content, said):
    path = tmp_path / "no.png"
    path.write_bytes(content)
    for read in (decode_image, picture_size, lambda p: decode_mask(p, None)):
        with pytest.raises(DataError, match=rf"no\.png: .*{said}.*remove"):
            read(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        decode_image(tmp_path / "gone.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])  # beyond our bound only, and beyond Pillow's own
def test_decompression_bomb(tmp_path, raw_png, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(raw_png(side, side, 8, 0, b"\0" * 1000))
    for read in (decode_image, picture_size, lambda p: decode_mask(p, None)):
        with pytest.raises(DataError, match=r"bomb\.png: .*bomb.*(Shrink|cut)"):
            read(path)


def test_masks_of_all_sorts(tmp_path):
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    expected = [[False, True, True, True]]
    assert decode_mask(saved(tmp_path / "i.png", Image.fromarray(ids)), (1, 4)).tolist() == expected
    assert decode_mask(saved(tmp_path / "d.png", Image.fromarray(ids.astype(np.uint16))), (1, 4)).tolist() == expected
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 759)
    assert decode_mask(saved(tmp_path / "p.png", palette), (1, 4)).tolist() == expected
    clear = Image.new("RGBA", (4, 1), (255, 255, 255, 0))
    assert not decode_mask(saved(tmp_path / "t.png", clear), (1, 4)).any()


@pytest.mark.parametrize(("colour", "values"), [(2, (1, 1, 1)), (4, (2, 65535))])
def test_a_mask_whose_low_bytes_cannot_be_read_is_refused(tmp_path, raw_png, colour, values):
    (tmp_path / "m.png").write_bytes(raw_png(1, 1, 16, colour, b"\0" + np.array(values, ">u2").tobytes()))
    with pytest.raises(DataError, match=r"m\.png: the mask has 16-bit colour.*16-bit gray"):
        decode_mask(tmp_path / "m.png", None)


def test_jpeg_mask_is_cut_at_half(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[10:20, 10:20] = 255
    path = saved(tmp_path / "m.jpg", Image.fromarray(mask), quality=40)
    assert (np.asarray(Image.open(path)) > 0).sum() > 150  # the artefacts are there
    assert abs(int(decode_mask(path, (32, 32)).sum()) - 100) <= 8


def test_mask_of_another_size(put_mask):
    path = put_mask("m.png", (8, 6))
    assert decode_mask(path, (6, 8)).sum() == 12
    with pytest.raises(DataError, match=r"m\.png: the mask has 8 x 6 pixels, its picture 9 x 6"):
        decode_mask(path, (6, 9))
