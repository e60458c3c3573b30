"""The benchmark measures what it says: both ways agree or it refuses, and they take turns."""

import argparse
import math
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from speed import bench

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick():
    return argparse.Namespace(quick=True, repeat=1)


def check(rows, count):
    assert len(rows) == count
    for _, _, ours, instead, ratio in rows:
        assert ours > 0 and instead > 0 and 0 < ratio < math.inf


def test_reading_rows(quick):
    check(list(bench.reading(quick)), 1)


@pytest.mark.slow
def test_training_rows(quick):
    check(list(bench.training(quick)), 4)


@pytest.mark.slow
def test_a_way_that_computes_something_else_is_refused(quick, monkeypatch):
    packed = bench.packed_draw
    monkeypatch.setattr(bench, "packed_draw", lambda losses, batch: 1.01 * packed(losses, batch))
    with pytest.raises(AssertionError):
        next(bench.training(quick))


def test_two_ways_take_turns_and_a_row_says_how_many_times_better_ours_is(monkeypatch):
    calls, clock = [], iter([0, 99, 199, 0, 4, 6, 0, 6, 8, 0, 4, 8])  # the first round does not count
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    row = bench.compare("a", "samples/s", 8, lambda: calls.append("ours"), lambda: calls.append("instead"), 3)
    assert calls == ["instead", "ours"] * 4
    assert row == ("a", "samples/s", 4.0, 2.0, 2.0)  # the ratio: the median of 2, 3 and 1


def test_bad_input_is_refused_in_one_line(monkeypatch):
    for words, message in (
        (["speed"], "speed: choose from reading, training"),
        (["--repeat", "0"], "--repeat 0: .*at least 1"),
    ):
        monkeypatch.setattr("sys.argv", ["bench.py", *words])
        with pytest.raises(UserError, match=message):
            bench.main()


@pytest.mark.slow
def test_the_gpu_script_runs_at_tiny_size_on_a_cpu():
    command = [sys.executable, "-m", "speed.gpu", "--tiny", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("# CPU")
    assert [done.stdout.count(unit) for unit in ("samples/s", "tokens/s", "s/picture")] == [3, 2, 2]
