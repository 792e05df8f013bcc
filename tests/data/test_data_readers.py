"""Each layout on disk becomes the right samples; each way of getting it wrong is told by name."""

import pytest

from bikd_fast.data import DataError, describe, has_masks, open_dataset
from bikd_fast.data.listing import match_masks, require_pictures


def mvtec(put, put_mask, root="set", name="nut", good="good", kind="bent", suffix="png"):
    base = f"{root}/{name}"
    for i in range(3):
        put(f"{base}/train/{good}/{i:03d}.{suffix}")
    put(f"{base}/test/{good}/000.{suffix}")
    for i in range(2):
        put(f"{base}/test/{kind}/{i:03d}.{suffix}")


def test_mvtec(tmp_path, put, put_mask):
    for name in ("nut", "bolt"):
        mvtec(put, put_mask, name=name)
        put_mask(f"set/{name}/ground_truth/bent/000_mask.png")
        put_mask(f"set/{name}/ground_truth/bent/001_mask.png")
    put("set/nut/train/good/._000.png")
    (tmp_path / "set" / "license.txt").write_text("x")
    bolt, nut = open_dataset("mvtec", tmp_path / "set", ["all"])
    assert (bolt.name, nut.name) == ("bolt", "nut")
    assert [s.path.name for s in nut.train] == ["000.png", "001.png", "002.png"]
    assert [(s.label, s.kind) for s in nut.test] == [(0, "good"), (1, "bent"), (1, "bent")]
    assert nut.test[2].mask_path == tmp_path / "set/nut/ground_truth/bent/001_mask.png"
    assert all(s.label == 0 and s.mask_path is None for s in nut.train)
    assert has_masks(nut.test)
    assert [c.name for c in open_dataset("mvtec", tmp_path / "set", ["nut", "bolt", "nut"])] == ["nut", "bolt"]
    (alone,) = open_dataset("mvtec", tmp_path / "set" / "nut", ["all"])
    assert alone == nut
    assert open_dataset("mvtec", str(tmp_path / "set"), "nut") == [nut]
    with pytest.raises(DataError, match=r"no category cup; there are: bolt, nut"):
        open_dataset("mvtec", tmp_path / "set", ["nut", "cup"])


def test_without_any_masks(tmp_path, put, put_mask):
    mvtec(put, put_mask)
    (nut,) = open_dataset("mvtec", tmp_path / "set", ["all"])
    assert [s.mask_path for s in nut.test] == [None] * 3 and not has_masks(nut.test)


def test_picture_without_its_mask(tmp_path, put, put_mask):
    mvtec(put, put_mask)
    put_mask("set/nut/ground_truth/bent/000_mask.png")
    with pytest.raises(DataError, match=r"bent/001\.png: no mask 001_mask\.png"):
        open_dataset("mvtec", tmp_path / "set", ["all"])


def test_mask_without_its_picture(tmp_path, put, put_mask):
    mvtec(put, put_mask)
    for i in (0, 1, 7):
        put_mask(f"set/nut/ground_truth/bent/00{i}_mask.png")
    with pytest.raises(DataError, match=r"007_mask\.png: a mask without its picture"):
        open_dataset("mvtec", tmp_path / "set", ["all"])
    (tmp_path / "set/nut/ground_truth/bent/007_mask.png").unlink()
    put_mask("set/nut/ground_truth/rust/000_mask.png")
    with pytest.raises(DataError, match=r"rust/000_mask\.png: a mask without its picture"):
        open_dataset("mvtec", tmp_path / "set", ["all"])


def test_folders_below_are_searched_once_each_where_links_lead_in_circles(tmp_path, put):
    for name in ("a/0.png", "a/b/1.png", "c/2.png", ".hidden/3.png"):
        put(f"texture/{name}")
    top = tmp_path / "texture"
    (top / "a/b/up").symlink_to(top)
    (top / "c/again").symlink_to(top / "a")
    assert [p.relative_to(top).as_posix() for p in require_pictures(top, below=True)] == ["a/0.png", "a/b/1.png", "c/2.png"]


def test_empty_folders(tmp_path, put, put_mask):
    mvtec(put, put_mask)
    (tmp_path / "set/nut/test/rust").mkdir()
    with pytest.raises(DataError, match=r"test/rust: empty folder"):
        open_dataset("mvtec", tmp_path / "set", ["all"])
    (tmp_path / "set/nut/test/rust/notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"test/rust: no pictures among its 1 entries \(notes\.txt\)"):
        open_dataset("mvtec", tmp_path / "set", ["all"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"bare: no category in it.*no sub-folders"):
        open_dataset("mvtec", tmp_path / "bare", ["all"])


def test_wrong_arguments(tmp_path):
    with pytest.raises(DataError, match=r"'coco' is unknown; there are: textures, mvtec, visa, btad, folder"):
        open_dataset("coco", tmp_path, ["all"])
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        open_dataset("mvtec", tmp_path / "nowhere", ["all"])
    with pytest.raises(DataError, match=r"~no-such-user/set: no such home folder"):
        open_dataset("mvtec", "~no-such-user/set", ["all"])
    with pytest.raises(DataError, match=r"btad needs a folder.*--data\.root"):
        open_dataset("btad", None, ["all"])


@pytest.mark.parametrize(
    ("place", "format"), [("good", "folder"), (".", "folder"), ("train/good", "mvtec"), ("01/train/ok", "btad")]
)
def test_embedded_set_is_not_written_into_a_data_set(tmp_path, put, place, format):
    put(f"parts/{place}/0.png")
    with pytest.raises(DataError, match=rf"parts: holds pictures in the layout of {format}, .*Give --data.format {format}, or"):
        open_dataset("textures", tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("textures-*"))


def test_btad(tmp_path, put, put_mask):
    mvtec(put, put_mask, name="01", good="ok", kind="ko", suffix="bmp")
    for i in range(2):
        put_mask(f"set/01/ground_truth/ko/00{i}.png")
    (one,) = open_dataset("btad", tmp_path / "set", ["01"])
    assert [(s.path.suffix, s.label, s.kind) for s in one.test] == [(".bmp", 0, "good"), *[(".bmp", 1, "ko")] * 2]
    assert one.test[1].mask_path.name == "000.png" and len(one.train) == 3
    with pytest.raises(DataError, match=r"neither train/good nor NAME/train/good exists \(found: 01\)"):
        open_dataset("mvtec", tmp_path / "set", ["all"])


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0.JPG,
candle,test,normal,candle/Data/Images/Normal/1.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png
pcb1,train,normal,pcb1/Data/Images/Normal/0.JPG,
"""


@pytest.fixture
def visa(tmp_path, put, put_mask):
    for name in ("Normal/0", "Normal/1", "Anomaly/0"):
        put(f"candle/Data/Images/{name}.JPG")
    put_mask("candle/Data/Masks/Anomaly/0.png")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text(VISA)
    return tmp_path


def test_visa(visa):
    (candle,) = open_dataset("visa", visa, ["candle"])  # pcb1 is not unpacked and not asked for
    assert [s.path.name for s in candle.train] == ["0.JPG"]
    assert [(s.label, s.kind) for s in candle.test] == [(0, "good"), (1, "anomaly")]
    assert candle.test[1].mask_path == visa / "candle/Data/Masks/Anomaly/0.png"
    with pytest.raises(DataError, match=r"pcb1/Data/Images/Normal/0\.JPG: no such file, named by .*1cls\.csv line 5"):
        open_dataset("visa", visa, ["all"])
    with pytest.raises(DataError, match=r"no category fryum; there are: candle, pcb1"):
        open_dataset("visa", visa, ["fryum"])


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("object,split", "object,part", "no column split"),
        ("candle,test,anomaly", "candle,train,anomaly", "line 4: an anomaly to train on"),
        ("candle,test,anomaly", "candle,test,broken", "line 4: split 'test', label 'broken'"),
        ("candle,train", "candle,test", "no training picture of candle"),
        (",candle/Data/Images/Normal/0.JPG,", "", "line 2: no image in this row"),
        ("candle,train", "cand\udce9,train", "1cls.csv: not a readable table in UTF-8"),
    ],
)
def test_visa_table_errors(visa, before, after, said):
    (visa / "split_csv/1cls.csv").write_text(VISA.replace(before, after), errors="surrogateescape")
    with pytest.raises(DataError, match=said):
        open_dataset("visa", visa, ["candle"])


def test_visa_without_its_table(tmp_path):
    with pytest.raises(DataError, match=r"1cls\.csv: no such file"):
        open_dataset("visa", tmp_path, ["all"])


def test_folder_holds_out_every_fifth(tmp_path, put):
    for i in range(11):
        put(f"cups/good/{i:02d}.png")
    (cups,) = open_dataset("folder", tmp_path / "cups", ["all"])
    assert cups.name == "cups"
    assert [s.path.name for s in cups.test] == ["04.png", "09.png"]
    assert len(cups.train) == 9 and not {s.path for s in cups.train} & {s.path for s in cups.test}
    assert "2 of 11" in cups.note and cups.note in describe([cups])


def test_folder_with_pictures_at_its_root(tmp_path, put):
    for i in range(3):
        put(f"cups/{i}.png")
    (cups,) = open_dataset("folder", tmp_path / "cups", ["cups"])
    assert [len(cups.train), len(cups.test)] == [2, 1]


def test_folder_says_which_pictures_it_did_not_look_at(tmp_path, put):
    for name in ("good/0", "good/1", "defects/chip/0", "masks/chip/0", "abnormal/0", "NG/0"):
        put(f"cups/{name}.png")
    (tmp_path / "cups/notes").mkdir()
    (cups,) = open_dataset("folder", tmp_path / "cups", ["all"])
    assert "; " in cups.note and cups.note.endswith("were not looked at: NG, abnormal")


def test_folder_with_defects_and_masks(tmp_path, put, put_mask):
    for i in range(3):
        put(f"cups/good/{i}.png")
    put("cups/test_good/x.png")
    put("cups/defects/loose.png")
    put("cups/defects/chip/a.jpg")
    (cups,) = open_dataset("folder", tmp_path / "cups", ["all"])
    assert [(s.path.name, s.label, s.kind) for s in cups.test] == [
        ("x.png", 0, "good"),
        ("loose.png", 1, "defect"),
        ("a.jpg", 1, "chip"),
    ]
    assert cups.note == "" and not has_masks(cups.test)
    put_mask("cups/masks/loose_mask.png")
    with pytest.raises(DataError, match=r"chip/a\.jpg: no mask"):
        open_dataset("folder", tmp_path / "cups", ["all"])
    put_mask("cups/masks/chip/a.png")
    (cups,) = open_dataset("folder", tmp_path / "cups", ["all"])
    assert has_masks(cups.test) and cups.test[2].mask_path == tmp_path / "cups/masks/chip/a.png"
    put_mask("cups/masks/dent/b.png")
    with pytest.raises(DataError, match=r"dent/b\.png: a mask without its picture"):
        open_dataset("folder", tmp_path / "cups", ["all"])


def test_folder_of_several_categories(tmp_path, put):
    for name in ("cup", "plate"):
        for i in range(2):
            put(f"shop/{name}/good/{i}.png")
    assert [c.name for c in open_dataset("folder", tmp_path / "shop", ["all"])] == ["cup", "plate"]


@pytest.mark.parametrize("root", ["set", "set/nut"])
def test_folder_does_not_take_the_parts_of_another_layout_for_categories(tmp_path, put, put_mask, root):
    mvtec(put, put_mask)
    with pytest.raises(DataError, match=rf"{root}: its good pictures lie in train/good, .* Give --data.format mvtec"):
        open_dataset("folder", tmp_path / root)


def test_folder_errors(tmp_path, put):
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"bare: no pictures and no folder good"):
        open_dataset("folder", tmp_path / "bare", ["all"])
    put("one/good/a.png")
    with pytest.raises(DataError, match=r"a\.png: the only good picture"):
        open_dataset("folder", tmp_path / "one", ["all"])


def test_describe_counts(tmp_path, put, put_mask):
    mvtec(put, put_mask)
    line = describe(open_dataset("mvtec", tmp_path / "set", ["all"])).splitlines()[1]
    assert line.split() == ["nut", "3", "1", "2", "bent", "2"]


@pytest.mark.parametrize(
    ("pictures", "masks", "said"),
    [
        (["a.png"], ["a.png", "a_mask.png"], r"a_mask\.png: a\.png is a mask of a\.png as well"),
        (["a.png"], ["a.bmp", "a.png"], r"m/a\.png: a\.bmp is a mask of a\.png as well"),
        (["a.jpg", "a.png"], ["a.png"], r"p/a\.png: its mask would be that of a\.jpg too"),
    ],
)
def test_two_that_claim_each_other_are_named(tmp_path, pictures, masks, said):
    for name in (*(f"p/{picture}" for picture in pictures), *(f"m/{mask}" for mask in masks)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=said):
        match_masks([tmp_path / "p" / name for name in pictures], tmp_path / "m")
