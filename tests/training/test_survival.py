"""A run is the same on any number of processes, and goes on to the same bytes after any interruption."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from checkpoints.folders import find_checkpoint
from common.errors import UserError
from training.batches import divide
from weights import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
COMMON = ["--data", "phantom:12", "--workers", "0", "--batch", "8", "--size", "64", "--device", "cpu", "--decay", "0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KILLS = 6 if os.environ.get("CI") == "true" else 20


def command(micro_folder, *arguments, processes=0):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    program = [*(launch if processes else []), ROOT / "train.py", "--init", micro_folder, *COMMON, *arguments]
    return [sys.executable, *map(str, program)]


def run(micro_folder, *arguments, cwd, processes=0, returncode=0):
    result = subprocess.run(
        command(micro_folder, *arguments, processes=processes),
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == returncode, result.stderr
    return result


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensors(out):
    folder = out / "checkpoint"
    return load_file(folder / "model.safetensors") | load_file(folder / "training.safetensors")


def same_bytes(first, second):
    for name in ("model.safetensors", "vae.safetensors", "training.safetensors", "tokenizer.json"):
        a, b = (out / "checkpoint" / name for out in (first, second))
        assert a.read_bytes() == b.read_bytes(), name


# ---- any number of processes -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "2"])
def test_one_two_and_four_processes_train_the_same_model(micro_folder, tmp_path, stage):
    flags = ["--stage", stage, "--steps", "10", "--look-every", "100", "--ema", "0"]
    flags += ["--mix", "0:1"] if stage == "1" else ["--optimizer", "adamw"]
    less = ["--less-memory", "both"] if stage == "2" else []  # neither half may change a number
    for processes in (1, 2, 4):
        run(micro_folder, *flags, *less, "--out", f"on-{processes}", cwd=tmp_path, processes=processes)
    run(micro_folder, *flags, "--out", "accumulated", "--micro-batch", "2", cwd=tmp_path)
    alone, weights = records(tmp_path / "on-1"), tensors(tmp_path / "on-1")
    for other in ("on-2", "on-4", "accumulated"):
        for a, b in zip(alone, records(tmp_path / other), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        for name, tensor in tensors(tmp_path / other).items():
            expected = weights[name]
            if "vit.blocks" in name and name.endswith("qkv.bias"):
                # Softmax does not feel a constant added to all keys: this gradient is rounding noise around 0, of which
                # AdamW with eps 1e-15 makes steps of full length.
                tensor, expected = (torch.cat(each.chunk(3)[::2]) for each in (tensor, expected))
            torch.testing.assert_close(tensor, expected, atol=1e-4, rtol=0, msg=name)


# ---- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "ema"), [("vit", 0), ("1", 0), ("2", 0), ("2", 0.9)])
def test_five_steps_and_five_more_are_ten(micro_folder, tmp_path, stage, ema):
    flags = [
        "--stage",
        stage,
        "--ema",
        str(ema),
        "--look-every",
        "100",
    ]  # 12 images: the second epoch begins on the way
    run(micro_folder, *flags, "--steps", "10", "--out", "straight", cwd=tmp_path)
    run(micro_folder, *flags, "--steps", "5", "--out", "twice", cwd=tmp_path)
    command = [sys.executable, ROOT / "train.py", "--stage", stage, "--steps", "10", "--out", "twice", "--resume"]
    result = subprocess.run([*command, "--workers", "0"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr  # what is not asked for again stays as it was
    assert "going on after step 5" in result.stdout
    same_bytes(tmp_path / "straight", tmp_path / "twice")
    losses = [[record["loss"] for record in records(tmp_path / name)] for name in ("straight", "twice")]
    assert losses[0] == losses[1]
    assert [record["step"] for record in records(tmp_path / "twice")] == list(range(1, 11))
    history = load_checkpoint(tmp_path / "twice").history
    assert [entry["steps"] for entry in history] == [10]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(micro_folder, tmp_path):
    flags = ["--stage", "2", "--look-every", "100", "--ema", "0.9", "--optimizer", "adamw"]
    run(micro_folder, *flags, "--steps", "6", "--out", "straight", cwd=tmp_path)
    shard = ["--less-memory", "optimizer"]
    run(micro_folder, *flags, *shard, "--steps", "3", "--out", "moved", cwd=tmp_path, processes=2)
    run(micro_folder, *flags, "--steps", "6", "--out", "moved", "--resume", cwd=tmp_path)
    expected = tensors(tmp_path / "straight")
    for name, tensor in tensors(tmp_path / "moved").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(micro_folder, tmp_path):
    flags = ["--stage", "2", "--steps", "40", "--save-every", "1", "--look-every", "100"]
    began = time.time()
    run(micro_folder, *flags, "--out", "straight", cwd=tmp_path)
    whole = time.time() - began
    chance, reached = random.Random(0), []
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(micro_folder, *flags, "--out", "killed", "--resume"),
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Most of the time is start-up; kill where it hurts, from shortly before the first step on.
        time.sleep(whole * chance.uniform(0.5, 0.8))
        process.kill()
        process.wait()
        folder = find_checkpoint(tmp_path / "killed")
        reached.append(json.loads((folder / "training.json").read_text())["step"] if folder else 0)
    assert reached == sorted(reached) and reached[-1] > 0
    run(micro_folder, *flags, "--out", "killed", "--resume", cwd=tmp_path)
    same_bytes(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_leaves(micro_folder, tmp_path, number):
    flags = ["--stage", "2", "--steps", "100000", "--look-every", "200000", "--out", "run"]
    flags += ["--workers", "2"]  # the last one counts; a terminal signals these processes too
    process = subprocess.Popen(
        command(micro_folder, *flags),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these tests may run under nohup
    )
    while not (tmp_path / "run/metrics.jsonl").exists() or len(records(tmp_path / "run")) < 3:
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "saved; go on with --resume" in said
    step = json.loads((tmp_path / "run/checkpoint/training.json").read_text())["step"]
    assert step == records(tmp_path / "run")[-1]["step"]


# ---- what may go wrong -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_unfinished_run_is_not_overwritten_by_forgetting_resume(micro_folder, tmp_path):
    flags = ["--stage", "1", "--look-every", "100", "--out", "run"]
    run(micro_folder, *flags, "--steps", "2", cwd=tmp_path)
    state = tmp_path / "run/checkpoint/training.json"
    content = json.loads(state.read_text())
    content["recipe"]["steps"] = 9
    state.write_text(json.dumps(content))
    (tmp_path / "run/checkpoint/manifest.json").unlink()
    result = run(micro_folder, *flags, "--steps", "9", cwd=tmp_path, returncode=2)
    assert "--out run: holds a run at step 2, which is not finished; add --resume" in result.stderr
    result = run(micro_folder, *flags, "--resume", "--seed", "3", cwd=tmp_path, returncode=2)
    assert "was started with --seed 0, not with --seed 3" in result.stderr
    result = run(micro_folder, *flags, "--resume", "--lr", "0.5", cwd=tmp_path, returncode=2)
    assert "was started with --lr 0.003, not with --lr 0.5" in result.stderr


@pytest.mark.slow
def test_a_loss_that_explodes_stops_the_run_and_saves_nothing(micro, tmp_path):
    """Finite weights whose velocity, squared, is beyond float32."""
    model = deepcopy(micro.model)
    model.llm2vae.weight.data.mul_(1e25)
    save_checkpoint(tmp_path / "huge", replace(micro, model=model))
    result = run(tmp_path / "huge", "--stage", "3", "--steps", "4", "--out", "run", cwd=tmp_path, returncode=2)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: step 1: the loss is inf") and "start from it with --init" in last
    assert not (tmp_path / "run/checkpoint").exists()


def test_a_full_disk_leaves_the_checkpoint_before_it(micro, tmp_path):
    save_checkpoint(tmp_path / "checkpoint", micro)
    before = (tmp_path / "checkpoint/model.safetensors").read_bytes()

    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"could not be written .*No space left.* is the disk full"):
        save_checkpoint(tmp_path / "checkpoint", micro, more=full, keep_last=True)
    assert (tmp_path / "checkpoint/model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_between_the_two_renames_of_a_save_the_older_checkpoint_is_found(micro, tmp_path):
    save_checkpoint(tmp_path / "checkpoint", micro)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint.old"
    assert load_checkpoint(tmp_path).model.config == micro.model.config


def test_the_batch_is_divided_so_that_it_comes_out_even():
    recipe = train.RECIPES["unix"]["1"]
    assert divide(recipe, processes=8) == (8, 4)
    assert divide(recipe, processes=1) == (8, 32)
    with pytest.raises(UserError, match="--batch 256: cannot be shared by 3 processes"):
        divide(recipe, processes=3)
    assert divide(replace(recipe, mix="1:3"), processes=16) == (8, 2)  # four that stay together
