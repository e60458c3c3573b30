"""A run owns its folder, ends whatever happens, and says in one line that a process died."""

import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from common.distributed import StopSignal, joined_team
from common.workers import ASKING

ROOT = Path(__file__).parents[2]
FLAGS = ["--stage", "2", "--data", "phantom:12", "--batch", "4", "--size", "64", "--device", "cpu"]


def start(folder, *flags, processes=0, cwd, **options):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    command = [sys.executable, *launch, ROOT / "train.py", "--init", folder, *FLAGS, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*map(str, command)], cwd=cwd, env=environment, start_new_session=True, **pipes, **options)


def wait_for(path, seconds=120):
    end = time.time() + seconds
    while not path.is_file() or not path.read_text():
        assert time.time() < end, f"{path} did not appear"
        time.sleep(0.1)


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_second_run_in_the_folder_of_a_living_one_is_refused(micro_folder, tmp_path):
    first = start(
        micro_folder, "--out", "run", "--steps", "100000", "--save-every", "1", "--workers", "0", cwd=tmp_path
    )
    try:
        wait_for(tmp_path / "run/metrics.jsonl")
        for flags in (["--resume"], []):
            second = start(micro_folder, "--out", "run", "--steps", "100000", *flags, cwd=tmp_path)
            output, _ = second.communicate(timeout=120)
            assert second.returncode == 2 and f"process {first.pid} on" in output and "Traceback" not in output
    finally:
        end(first)


@pytest.mark.slow
def test_an_error_with_workers_does_not_hang(micro_folder, tmp_path):
    """A folder where the loss curve should go: found at the last step, while workers wait with full queues."""
    (tmp_path / "run/loss.png").mkdir(parents=True)
    (tmp_path / "run/.open-unix").touch()
    process = start(micro_folder, "--out", "run", "--steps", "2", "--workers", "2", cwd=tmp_path)
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        end(process)
        pytest.fail("it hangs")
    assert process.returncode == 2 and "loss.png: cannot be written" in output


@pytest.mark.slow
def test_a_disk_that_takes_no_more_ends_the_run_in_one_line(micro_folder, tmp_path):
    """No file may grow beyond 900 kB: the pictures fit, the checkpoint does not."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (900_000, 900_000))
    process = start(micro_folder, "--out", "run", "--steps", "2", "--workers", "1", cwd=tmp_path, preexec_fn=limit)
    output, _ = process.communicate(timeout=120)
    last = output.strip().splitlines()[-1]
    assert process.returncode == 2 and last.startswith("error: ") and "could not be written" in last
    assert not any(path.name.endswith(".tmp") for path in tmp_path.rglob("*"))


@pytest.mark.slow
def test_the_death_of_a_process_is_one_line_of_each_survivor(micro_folder, tmp_path):
    process = start(micro_folder, "--out", "run", "--steps", "100000", "--workers", "0", processes=2, cwd=tmp_path)
    try:
        wait_for(tmp_path / "run/metrics.jsonl")
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(found[-1]), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)  # it took 31 s before anything was said
    finally:
        if process.poll() is None:
            end(process)
    ours = [line for line in output.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(ours) == 1 and "has lost another one" in ours[0] and "--resume" in ours[0]


def test_what_torchrun_left_in_the_environment_makes_no_team(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with joined_team(torch.device("cpu")) as team:
        assert (team.rank, team.size) == (0, 1)


@pytest.mark.parametrize(("before", "asked"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_stops_a_run_unless_nohup_was_asked_for(before, asked):
    handlers = {number: signal.getsignal(number) for number in ASKING}
    try:
        signal.signal(signal.SIGHUP, before)
        stop = StopSignal()
        signal.raise_signal(signal.SIGHUP)
        assert stop.asked == asked and (not asked or stop.number == signal.SIGHUP)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
