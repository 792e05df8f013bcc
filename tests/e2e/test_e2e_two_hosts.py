"""Two hosts: network namespaces joined by one cable where the system lets us, two launchers on loopback elsewhere."""

import json
import os
import shutil
import subprocess
import time

import psutil
import pytest
from jobs import BIN, LONG, end, gone, lines, options, ranks_of, start, until

from bikd_fast.training.place import free_port

pytestmark = pytest.mark.e2e
SILENCE = 30  # seconds: more than a busy machine keeps a live rank from speaking, and the end still comes within a minute


def ip(*words):
    return subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, timeout=20)


@pytest.fixture
def hosts():
    """Two command prefixes, the address of the first host, and what cuts the cable (None on loopback)."""
    mark = f"b{os.getpid() % 100000}"
    names = [f"{mark}a", f"{mark}b"]
    if os.geteuid() != 0 or shutil.which("ip") is None or ip("netns", "add", names[0]).returncode != 0:
        yield [[], []], "127.0.0.1", None
        return
    try:
        ip("netns", "add", names[1])
        ip("link", "add", f"{mark}0", "netns", names[0], "type", "veth", "peer", "name", f"{mark}1", "netns", names[1])
        for number, name in enumerate(names):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", f"{mark}{number}")
            assert ip("-n", name, "link", "set", f"{mark}{number}", "up").returncode == 0
        yield (
            [["ip", "netns", "exec", name] for name in names],
            "10.77.0.1",
            lambda: ip("-n", names[1], "link", "set", f"{mark}1", "down"),
        )
    finally:
        for name in names:
            ip("netns", "del", name)


def jobs_on(hosts, tmp_path, words):
    """One launcher a host, one rank each; both write to the same folder, as to a shared file system."""
    prefixes, address, _ = hosts
    (tmp_path / "hostfile").write_text("hostA slots=1\nhostB slots=1\n")
    logs = [tmp_path / f"log{n}" for n in range(2)]
    meeting = ["--master_addr", address, "--master_port", free_port()]
    launch = [BIN / "deepspeed", "--hostfile", tmp_path / "hostfile", "--no_ssh", *meeting]
    return [
        start([*prefixes[n], *launch, "--node_rank", n, "bikd_fast/train.py", *words], logs[n]) for n in range(2)
    ], logs  # fmt: skip


def test_two_hosts_see_what_one_sees(hosts, tiny_mvtec, tmp_path):
    words = ("--training.forward_only", 0.2)
    jobs, logs = jobs_on(hosts, tmp_path, options(tiny_mvtec, tmp_path / "two", *words, steps=8))
    alone = start(["python", "bikd_fast/train.py", *options(tiny_mvtec, tmp_path / "one", *words, steps=8)], tmp_path / "log")
    try:
        for job in [*jobs, alone]:
            job.wait(240)
    finally:
        for job in [*jobs, alone]:
            end(job)
    said = "\n".join(log.read_text()[-2000:] for log in [*logs, tmp_path / "log"])
    assert [job.returncode for job in [*jobs, alone]] == [0, 0, 0], said
    assert (tmp_path / "two/DONE").is_file() and (tmp_path / "one/DONE").is_file()
    two, one = (
        [json.loads(line)["loss"] for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("two", "one")
    )
    assert len(two) == 8 and two == pytest.approx(one, rel=1e-5)


def test_a_cut_cable_ends_both_sides_with_a_clear_error(hosts, tiny_mvtec, tmp_path):
    *_, cut = hosts
    if cut is None:
        pytest.skip("needs network namespaces (root)")
    words = options(tiny_mvtec, tmp_path / "run", "--training.silence", SILENCE, steps=LONG)
    jobs, logs = jobs_on(hosts, tmp_path, words)
    try:
        until(lambda: lines(tmp_path / "run") > 3 or any(j.poll() is not None for j in jobs), 180, logs[0])
        assert all(j.poll() is None for j in jobs), "\n".join(log.read_text()[-2000:] for log in logs)
        processes = [p for job in jobs for p in psutil.Process(job.pid).children(recursive=True)]
        assert cut().returncode == 0
        began = time.monotonic()
        for job, log in zip(jobs, logs):
            until(lambda job=job: job.poll() is not None, 60, log)
        assert time.monotonic() - began < 60 and gone(processes)
        for job, log, other in zip(jobs, logs, (1, 0)):
            said = [line for line in log.read_text().splitlines() if line.startswith("error:")]
            assert job.returncode != 0 and len(said) == 1, log.read_text()[-2000:]
            assert f"no sign of life from rank {other}" in said[0] and "Traceback" not in log.read_text()
    finally:
        for job in jobs:
            end(job)


def test_a_rank_that_is_killed_alone_on_its_host_is_named_by_the_other_host(hosts, tiny_mvtec, tmp_path):
    if hosts[2] is None:
        pytest.skip("needs network namespaces (root)")
    victim = 0  # with it dies what the others talk over; tests/training/test_training_watch.py has both
    jobs, logs = jobs_on(hosts, tmp_path, options(tiny_mvtec, tmp_path / "run", "--training.silence", 300, steps=LONG))
    try:
        until(lambda: lines(tmp_path / "run") > 3 or any(j.poll() is not None for j in jobs), 180, logs[0])
        killed = ranks_of(jobs[victim])[0]
        killed.kill()
        assert until(lambda: all(j.poll() is not None for j in jobs), 60, logs[1 - victim]) < 30
        said = [line for line in logs[1 - victim].read_text().splitlines() if line.startswith("error:")]
        assert all(job.returncode != 0 for job in jobs) and len(said) == 1, said
        assert f"rank {victim} (process {killed.pid}" in said[0] and "died" in said[0]
    finally:
        for job in jobs:
            end(job)
