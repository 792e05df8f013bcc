"""Videos and cameras of `bikd predict`."""

import csv
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import make_picture

from bikd_fast import predict
from bikd_fast.errors import guarded
from bikd_fast.inference import sources
from bikd_fast.inference.sources import expand
from bikd_fast.inference.video import VideoError, frames


def test_a_video(run, detector, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)  # lossless
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
        for i in range(7):
            frame = av.VideoFrame.from_ndarray(make_picture(i, 64, 96), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    arguments = [str(run / "stripes"), str(tmp_path / "clip.mkv"), "--every", "3", "--output", str(tmp_path / "out")]
    assert predict.main(arguments) == 0
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [r["path"].rpartition("#")[2] for r in found] == ["0", "3", "6"]
    known = detector.predict([make_picture(i, 64, 96) for i in (0, 3, 6)]).scores
    assert [float(r["score"]) for r in found] == pytest.approx(known.tolist(), rel=1e-4)
    assert (tmp_path / "out/heatmaps/clip/000003.jpg").is_file()


def test_a_video_that_was_taken_upright_is_turned(tmp_path):
    """As players do, and as pictures are by their EXIF orientation."""
    av = pytest.importorskip("av")
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :32] = 255  # upper left, which a quarter turn clockwise takes to the upper right
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    written = (tmp_path / "clip.mp4").read_bytes()
    matrices = ((1, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, -1, 0, 0, 64, 0))
    lying, clockwise = (struct.pack(">9i", *(number << 16 for number in matrix), 1 << 30) for matrix in matrices)
    place = written.index(lying, written.index(b"tkhd"))
    (tmp_path / "clip.mp4").write_bytes(written[:place] + clockwise + written[place + len(lying) :])
    ((_, upright),) = frames(str(tmp_path / "clip.mp4"))
    assert upright.shape == (3, 96, 64)
    bright = upright[0].float() / 255
    assert bright[:32, 32:].mean() > 0.9 and bright[32:].mean() < 0.1 and bright[:32, :32].mean() < 0.1


def test_a_damaged_video_and_a_missing_camera_are_named(run, tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"not a video" * 100)
    words = ["--output", str(tmp_path / "out")]
    assert predict.main([str(run / "dots"), str(tmp_path / "clip.mp4"), *words]) == 1
    assert "clip.mp4: not a readable video" in capsys.readouterr().out
    assert guarded(lambda: predict.main([str(run / "dots"), "camera:77", *words])) == 2
    assert "not a readable camera" in capsys.readouterr().err


def test_videos_that_a_glob_matches_and_what_follows_one_that_is_cut(tmp_path, monkeypatch):
    for name in ("a.mp4", "b.MKV", "c.png"):
        Image.fromarray(make_picture(0)).save(tmp_path / name, "PNG")

    def two_frames(name, every):
        yield 0, torch.zeros(3, 8, 8, dtype=torch.uint8)
        if name.endswith("a.mp4"):
            raise VideoError(f"{name}: not a readable video (cut)")
        yield every, torch.zeros(3, 8, 8, dtype=torch.uint8)

    monkeypatch.setattr(sources, "frames", two_frames)
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in ([f"{tmp_path}/*"], ["~/a.mp4", "~/b.MKV", "~/c.png"]):
        inputs = expand(words, every=4)
        found = list(inputs.sources)
        assert [s.name.rpartition("/")[2] for s in found] == ["a.mp4#0", "a.mp4", "b.MKV#0", "b.MKV#4", "c.png"]
        assert [s.stem for s in found] == ["a/000000", "a", "b/000000", "b/000004", "c"] and inputs.count is None
        with pytest.raises(VideoError, match=r"a\.mp4: not a readable video"):
            found[1].read()
