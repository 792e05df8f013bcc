"""Checkpoint files: which stay, which is taken up, and what of an optimizer they hold."""

import copy
import errno
import json
import os
import struct

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from timm.optim import Lamb

from bikd_fast.files import FullError, whole, write_text
from bikd_fast.training import checkpoint, state


def trained(build=torch.optim.AdamW, steps=2):
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = build(module.parameters(), lr=0.01)
    for _ in range(steps):
        step(module, optimizer)
    return module, optimizer


def step(module, optimizer):
    optimizer.zero_grad()
    module(torch.linspace(0, 1, 12).view(4, 3)).square().sum().backward()
    optimizer.step()


def write(folder, number, settings="s", keep=2):
    return checkpoint.write(folder, number, state.state(*trained()), settings, keep, {"optimizer": "AdamW"})


def names(folder):
    return [int(path.stem.removeprefix("step-")) for path in sorted(folder.glob("*.safetensors"))]


def flip(path):
    flipped = bytearray(path.read_bytes())
    flipped[-3] ^= 1
    path.write_bytes(flipped)


def test_the_newest_stay(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, number)
    assert names(tmp_path) == [2, 3]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    module, optimizer = trained()
    for number in (1, 2, 3):
        checkpoint.write(tmp_path, number, state.state(module, optimizer), "s", keep=2)
    flip(tmp_path / "step-00000003.safetensors")
    found = checkpoint.newest(tmp_path, "s")
    assert found.step == 2 and found.path == checkpoint.path_of(tmp_path, 2) and "step-00000003" in found.warnings[0]
    fresh = torch.nn.Linear(3, 2)
    other = torch.optim.AdamW(fresh.parameters())
    state.restore(found.tensors, fresh, other)
    assert torch.equal(fresh.weight, module.weight)
    assert torch.equal(other.state[fresh.weight]["exp_avg"], optimizer.state[module.weight]["exp_avg"])


def test_another_settings_checkpoint_is_taken_over_whole_or_named(tmp_path):
    write(tmp_path / "theirs", 3, "theirs")
    source = checkpoint.path_of(tmp_path / "theirs", 3)
    checkpoint.adopt(source, tmp_path / "ours", "ours")
    assert checkpoint.newest(tmp_path / "ours", "ours").step == 3
    flip(source)
    with pytest.raises(checkpoint.CheckpointError, match=r"theirs.step-00000003\.safetensors is damaged \(.*cannot go on from it"):
        checkpoint.adopt(source, tmp_path / "late", "ours")
    assert not (tmp_path / "late").exists()


def test_a_checkpoint_of_other_settings_is_left_alone_and_costs_none_of_ours(tmp_path):
    for number in (310, 370):
        write(tmp_path, number, "theirs")
    found = checkpoint.newest(tmp_path, "ours")
    assert found.path is None and len(found.warnings) == 2 and "other settings" in found.warnings[0]
    for number in (60, 120, 180):
        assert write(tmp_path, number, "ours").is_file()
    assert names(tmp_path) == [120, 180, 310, 370]
    assert checkpoint.newest(tmp_path, "ours").step == 180 and checkpoint.newest(tmp_path, "theirs").step == 370


@pytest.mark.parametrize("readable", [True, False])
def test_who_goes_on_from_before_a_damaged_checkpoint_keeps_what_it_writes_and_drops_that_one(tmp_path, readable):
    for number in (2, 3):
        write(tmp_path, number)
    last = tmp_path / "step-00000003.safetensors"
    if readable:
        flip(last)
    else:
        last.write_bytes(b"cut short")
    write(tmp_path, 1, keep=1)
    assert names(tmp_path) == [1]


def test_drafts_of_a_killed_process_go(tmp_path):
    for name in (".writing-step-00000001.safetensors", ".tmpA1b2C3"):
        (tmp_path / name).write_bytes(b"a part of it")
    written = write(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [written]


def test_whoever_may_read_files_here_may_read_a_checkpoint(tmp_path):
    (plain := tmp_path / "plain").touch()
    assert write(tmp_path, 2).stat().st_mode == plain.stat().st_mode


def test_every_bit_of_the_header_counts(tmp_path):
    """Step, settings, names, types and shapes are under the checksum as the numbers are."""
    about = {"optimizer": "AdamW", "bad_steps": (1, 0)}
    path = checkpoint.write(tmp_path, 8, {"a": torch.arange(3.0), "b": torch.tensor(1)}, "s", 1, about)
    contents, good = path.read_bytes(), checkpoint.newest(tmp_path, "s")
    assert good.step == 8 and good.about == {"optimizer": "AdamW", "bad_steps": [1, 0]} and not good.warnings
    header = 8 + struct.unpack("<Q", contents[:8])[0]
    damaged = 0
    for bit in range(8 * header):
        flipped = bytearray(contents)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = checkpoint.newest(tmp_path, "s")
        if found.path is None:
            assert len(found.warnings) == 1 and f"{path} is damaged" in found.warnings[0]
            damaged += 1
        else:  # a bit that says nothing, as in the filling at the header's end
            assert (found.step, found.about) == (good.step, good.about) and not found.warnings
            assert {n: (t.dtype, t.tolist()) for n, t in found.tensors.items()} == {
                n: (t.dtype, t.tolist()) for n, t in good.tensors.items()
            }
    assert damaged > 0.95 * 8 * header


def described(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["bikd_checkpoint"])


@pytest.mark.parametrize("metadata", [None, {}, {"bikd_checkpoint": "[]"}, {"bikd_checkpoint": '{"step": 3}'}])
def test_a_checkpoint_that_does_not_say_what_it_is_counts_as_damaged(tmp_path, metadata):
    write(tmp_path, 2)
    save_file({"a": torch.zeros(2)}, checkpoint.path_of(tmp_path, 3), metadata=metadata)
    found = checkpoint.newest(tmp_path, "s")
    assert found.step == 2 and "step-00000003.safetensors is damaged (it" in found.warnings[0]


def test_a_checkpoint_under_the_name_of_another_step_counts_as_damaged(tmp_path):
    write(tmp_path, 2).rename(checkpoint.path_of(tmp_path, 3))
    write(tmp_path, 4).rename(checkpoint.path_of(tmp_path, 8))
    assert [w.split("is damaged ")[1] for w in checkpoint.newest(tmp_path, "s").warnings] == [
        f"(it is of step {step}); trying the one before it" for step in (4, 2)
    ]


def test_a_checkpoint_of_another_format_is_told_as_such_and_left_alone(tmp_path):
    tensors = load_file(write(tmp_path, 8))
    first = {"step": 8, "settings": "s", "digest": checkpoint.digest(tensors), "about": {}}  # as format 1 was written
    later = {"format": 3, "step": 9, "settings": "s"}
    later["digest"] = checkpoint.digest(tensors, later)
    for number, said in ((8, first), (9, later)):
        save_file(tensors, checkpoint.path_of(tmp_path, number), metadata={"bikd_checkpoint": json.dumps(said)})
    found = checkpoint.newest(tmp_path, "s")
    assert found.path is None and [w.split(", ")[0] for w in found.warnings] == [
        f"{checkpoint.path_of(tmp_path, step)} is of format {number}" for step, number in ((9, 3), (8, 1))
    ]
    write(tmp_path, 2)
    write(tmp_path, 10, keep=1)
    assert names(tmp_path) == [8, 9, 10] and described(checkpoint.path_of(tmp_path, 8)) == first


def test_a_folder_with_the_name_of_a_checkpoint_is_told_before_a_step_is_done(tmp_path):
    (tmp_path / "step-00000005.safetensors").mkdir()
    for attempt in (lambda: checkpoint.newest(tmp_path, "s"), lambda: write(tmp_path, 5), lambda: write(tmp_path, 2)):
        with pytest.raises(state.CheckpointError, match=r"step-00000005.safetensors: a folder, and checkpoints are files"):
            attempt()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("build", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, Lamb])
def test_an_optimizer_goes_on_as_if_undisturbed(tmp_path, build):
    module, optimizer = trained(build)
    checkpoint.write(tmp_path, 2, state.state(module, optimizer), "s", 1, {"optimizer": state.kind(optimizer)})
    found = checkpoint.newest(tmp_path, "s")
    fresh = torch.nn.Linear(3, 2)
    other = build(fresh.parameters(), lr=0.01)
    state.restore(found.tensors, fresh, other, found.about["optimizer"])
    for _ in range(3):
        step(module, optimizer)
        step(fresh, other)
    assert torch.equal(module.weight, fresh.weight) and torch.equal(module.bias, fresh.bias)


def test_whole_numbers_that_some_optimizers_count_in_come_back_as_such():
    module, optimizer = trained()
    for moments in optimizer.state.values():
        moments["step"] = 7  # as DeepSpeed's compiled Adam does
    optimizer.param_groups[0]["step"] = 5
    fresh = torch.nn.Linear(3, 2)
    other = torch.optim.AdamW(fresh.parameters())
    state.restore(state.state(module, optimizer), fresh, other)
    counts = [other.state[parameter]["step"] for parameter in fresh.parameters()] + [other.param_groups[0]["step"]]
    assert counts == [7, 7, 5] and all(type(count) is int for count in counts)


def test_the_loss_scale_of_fp16_comes_back():
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    module, optimizer = trained()
    optimizer.loss_scaler = DynamicLossScaler(2**16, 5, 1, 1, False, True, dtype=torch.half)
    fresh = copy.deepcopy(module)
    other = torch.optim.AdamW(fresh.parameters())
    other.loss_scaler = copy.deepcopy(optimizer.loss_scaler)
    optimizer.loss_scaler.cur_scale, optimizer.loss_scaler.cur_iter, optimizer.loss_scaler.last_overflow_iter = 1024.0, 9, 7
    state.restore(state.state(module, optimizer), fresh, other)
    assert vars(other.loss_scaler) == vars(optimizer.loss_scaler) and other.loss_scaler.cur_iter == 9


@pytest.mark.parametrize(("ours", "theirs"), [(torch.optim.SGD, torch.optim.AdamW), (torch.optim.AdamW, Lamb)])
def test_the_state_of_another_optimizer_is_refused(ours, theirs):
    module, optimizer = trained(theirs)
    with pytest.raises(state.CheckpointError, match=f"of {theirs.__name__}, and this run trains with {ours.__name__}"):
        state.restore(state.state(module, optimizer), module, ours(module.parameters(), lr=0.1), state.kind(optimizer))


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "config.yaml"
    write_text(path, "old")
    before = path.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt), whole(path) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    write_text(path, "old")
    assert path.read_text() == "old" and path.stat().st_mtime_ns == before and list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "refused",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        SafetensorError('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
    ],
)
def test_a_full_disk_is_one_sentence_and_costs_no_checkpoint(tmp_path, monkeypatch, refused):
    first = write(tmp_path, 1)

    def full(tensors, path, metadata):
        path.write_bytes(b"a part of it")
        raise refused

    monkeypatch.setattr(checkpoint, "save_file", full)
    said = r"step-00000002.safetensors: No space left on device. Make room and give the same command again"
    with pytest.raises(FullError, match=said):
        write(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [first] and checkpoint.newest(tmp_path, "s").step == 1


def test_what_else_the_system_refuses_safetensors_names_the_file(tmp_path):
    with pytest.raises(PermissionError) as refused, whole(tmp_path / "detector.safetensors"):
        raise SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)")
    assert refused.value.filename == str(tmp_path / "detector.safetensors")
    with pytest.raises(SafetensorError, match="no such type"), whole(tmp_path / "detector.safetensors"):
        raise SafetensorError("no such type")
