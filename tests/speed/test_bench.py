"""The benchmark measures what it says: both ways agree or it refuses, ceilings do the work they stand for."""

import argparse
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.errors import UserError
from speed import bench

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick():
    return argparse.Namespace(quick=True, repeat=1, threads=torch.get_num_threads())


def check(rows, count):
    assert len(rows) == count
    for row in rows:
        assert row.ours > 0 and row.instead > 0 and 0 < row.ratio < math.inf
        assert f"{row.ratio:.2f} x" in str(row)


def test_reading_rows(quick):
    check(list(bench.reading(quick)), 4)


@pytest.mark.slow
def test_training_rows_and_that_ours_keeps_less(quick):
    rows = list(bench.training(quick))
    check(rows, 4)
    stage_2, stage_1 = (row.ratio for row in rows if row.unit == "MB")
    assert stage_2 > 1.3 and stage_1 > 0.95  # stage 1 has no frozen part to save on


@pytest.mark.slow
def test_drawing_and_solver_rows(quick):
    check([*bench.drawing(quick), *bench.solvers(quick)], 5)


@pytest.mark.slow
def test_a_way_that_computes_something_else_is_refused(quick, monkeypatch):
    obvious = bench.obvious_draw
    monkeypatch.setattr(bench, "obvious_draw", lambda losses, batch: 1.01 * obvious(losses, batch))
    with pytest.raises(AssertionError):
        next(bench.training(quick))


def test_matrix_products_take_the_operations_they_are_asked_for():
    for flops in (2e5, 3e8, 2e10):
        with FlopCounterMode(display=False) as counter:
            bench.matrix_products(flops, torch.float32)()
        assert counter.get_total_flops() == pytest.approx(flops, rel=0.1)


def test_a_row_says_how_many_times_better_ours_is():
    seconds = {"ours": [2.0, 2.0, 4.0], "instead": [4.0, 6.0, 4.0], "bare": [1.0, 1.0, 1.0]}
    rate = bench.flops_row("reading", "samples/s", seconds, 8, 3e9)
    assert (rate.ours, rate.instead, rate.ratio) == (4.0, 2.0, 2.0)
    assert rate.ceiling == "50% of matrix products (3.0 GFLOP/s)"
    wait = bench.row("  first token", "s", seconds, 2)
    assert (wait.ours, wait.instead, wait.ratio, wait.ceiling) == (1.0, 2.0, 2.0, "")


def test_ways_take_turns_after_a_round_that_does_not_count():
    calls = []
    seconds = bench.take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert [len(taken) for taken in seconds.values()] == [3, 3]
    assert bench.times([4.0, 9.0, 4.0], [2.0, 3.0, 1.0]) == 3.0  # the median of 2, 3 and 4


def test_bad_input_is_refused_in_one_line(monkeypatch, quick):
    for words, message in ((["speed"], "no row 'speed'"), (["--repeat", "0"], "--repeat 0: .*at least 1")):
        monkeypatch.setattr("sys.argv", ["bench.py", *words])
        with pytest.raises(UserError, match=message):
            bench.main()
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"compares with transformers: pip install -e '.\[test\]'"):
        next(bench.reading(quick))


@pytest.mark.slow
def test_kl_f16_draws_512_px_in_less_than_2_gb():
    """At full size: 84 million parameters, a picture of 512 x 512."""
    code = "import sys; from speed import bench; bench.step_and_decode(*sys.argv[1:])"
    assert bench.in_child(code, "ours", torch.get_num_threads(), False)[-1] < 2.0


@pytest.mark.slow
def test_the_gpu_script_runs_at_tiny_size_on_a_cpu(tmp_path):
    page = tmp_path / "gpu.md"
    command = [sys.executable, "-m", "speed.gpu", "--tiny", "--device", "cpu", "--out", page]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert text.count("| right |") == 2 and "failed" not in text and text.count("samples/s") == 3
