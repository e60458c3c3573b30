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
    check(list(bench.reading(quick)), 2)


@pytest.mark.slow
def test_training_rows(quick):
    check(list(bench.training(quick)), 2)


@pytest.mark.slow
def test_drawing_rows(quick):
    check(list(bench.drawing(quick)), 1)


@pytest.mark.slow
def test_a_way_that_computes_something_else_is_refused(quick, monkeypatch):
    obvious = bench.obvious_draw
    monkeypatch.setattr(bench, "obvious_draw", lambda losses, batch: 1.01 * obvious(losses, batch))
    with pytest.raises(AssertionError):
        next(bench.training(quick))


def test_a_row_says_how_many_times_better_ours_is():
    seconds = {"ours": [2.0, 2.0, 4.0], "instead": [4.0, 6.0, 4.0]}
    assert bench.row("reading", "samples/s", seconds, 8)[2:] == (4.0, 2.0, 2.0)  # the median of 2, 3 and 1
    assert bench.row("  first token", "s", seconds, 2)[2:] == (1.0, 2.0, 2.0)


def test_ways_take_turns_after_a_round_that_does_not_count():
    calls = []
    seconds = bench.take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert [len(taken) for taken in seconds.values()] == [3, 3]


def test_bad_input_is_refused_in_one_line(monkeypatch):
    for words, message in (
        (["speed"], "speed: choose from reading, training, drawing"),
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
