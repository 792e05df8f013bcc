"""Whole searches of which a trial takes two processes of a cluster, and one on a local cluster of its own that Ctrl-C stops."""

import json
import signal
from pathlib import Path

import pytest
from clusters import LONG, complete, everything_ends, some, start, until, whole, words

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_trial_of_two_processes(tiny_mvtec, tmp_path, cluster):
    """DeepSpeed in a Ray Train worker group, one process on each node."""
    _, address, _ = cluster
    output, log = tmp_path / "found", tmp_path / "log"
    whole(words(tiny_mvtec, output, "--ranks-per-trial", "2", "--address", address, trials=1), log, tmp_path)
    (row,) = complete(output, 1)
    lines = (output / "ray/trials-files" / row["trial"] / "stripes/log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 8 and json.loads(lines[-1])["share_communication"] > 0


def test_interrupted_on_a_cluster_of_its_own_it_leaves_a_result_and_goes_on(tiny_mvtec, tmp_path):
    """From another folder, and without the file of its space."""
    output, log, space = tmp_path / "found", tmp_path / "log", tmp_path / "space.yaml"
    space.write_text("simulation.kinds.hole: null\n")
    with everything_ends():
        job = start(words(tiny_mvtec, output, "--space", "space.yaml", trials=3), log, tmp_path)
        try:
            until(lambda: some(output, 2) or job.poll() is not None, LONG, log)
            job.send_signal(signal.SIGINT)
            assert job.wait(LONG) == 130, log.read_text()[-3000:]
            assert (output / "best.yaml").is_file() and (output / "search.html").is_file()
            assert f"--resume {output}" in log.read_text()
            space.unlink()
            again = start(["--resume", str(output)], log, Path("/"))
            assert again.wait(LONG) == 0, log.read_text()[-3000:]
        finally:
            job.kill()
    rows = complete(output, 3)
    assert "simulation.kinds.hole" not in rows[0]
