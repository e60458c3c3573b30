"""Low-rank adapters: what they leave alone, what they reach, their file, and PEFT's reading of it."""

import copy
import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

import lora
from common.errors import UserError
from inside import run_inside
from judges.features import weights_hash
from weights import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[1]
PROMPT = [[5, 6, 7], [8, 9]]


def velocity(model, seed=0):
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(seed))
    return model(x, torch.tensor([0.3, 0.7]), PROMPT)


def stirred(model):
    """Give B numbers, as training would."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def model(micro):
    torch.manual_seed(0)  # A is drawn from the global generator: no test depends on those before it
    return copy.deepcopy(micro.model)


@pytest.mark.parametrize("branch", ["und", "gen"])
def test_a_fresh_adapter_changes_nothing_and_lies_on_four_matrices_a_layer(model, branch):
    before, state = velocity(model), copy.deepcopy(model.state_dict())
    trained = lora.put_on(model, branch, 2)
    assert torch.equal(velocity(model), before)
    kinds = {name.split(".", 2)[2].rsplit(".", 2)[0] for name in trained}
    assert kinds == {f"attn.{branch}.qkv", f"attn.{branch}.out", f"{branch}.mlp.gate_up", f"{branch}.mlp.down"}
    assert len(trained) == 2 * 4 * model.config.num_layers
    stirred(model)
    assert not torch.allclose(velocity(model), before, atol=1e-2)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())  # the base's bytes


def test_merged_is_the_same_function_and_has_no_adapter_left(model):
    names = [*model.state_dict()]
    lora.put_on(model, "gen", 3, scale=0.5)
    apart = velocity(stirred(model))
    lora.merge(model)
    assert (velocity(model) - apart).abs().max() < 1e-5
    assert [*model.state_dict()] == names and not model.adapter
    lora.put_on(model, "gen", 1)  # and another may be put on


@pytest.mark.parametrize(("rank", "reaches"), [(64, True), (1, False)])
def test_at_full_rank_it_reaches_what_full_training_reaches(model, rank, reaches):
    """The target is the model itself with other weights in one layer; both ways learn it from 32 pictures."""
    target, full = copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(2)
    for layer in lora.adapted(target, "gen").values():
        layer.weight.data += 0.1 * torch.randn_like(layer.weight)
    for each in (target, full, model):
        each.requires_grad_(False)
    trained = [layer.weight.requires_grad_() for layer in lora.adapted(full, "gen").values()]
    low_rank = [*lora.put_on(model, "gen", rank).values()]
    errors = []
    for student, parameters in ((full, trained), (model, low_rank)):
        optimizer = torch.optim.Adam(parameters, 3e-3)
        for step in range(150):
            loss = F.mse_loss(velocity(student, step % 4), velocity(target, step % 4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append(loss.item())
    assert errors[0] < 0.05 and (errors[1] < 2 * errors[0]) == reaches, errors


def test_a_file_brings_it_back_on_weights_of_either_dtype(model, micro, tmp_path):
    model.config.image_size = 48  # the size that it was trained at comes with it
    lora.put_on(model, "gen", 2, scale=2.0)
    lora.save_adapter(stirred(model), tmp_path / "a.safetensors")
    fresh = copy.deepcopy(micro.model)
    lora.load_adapter(fresh, tmp_path / "a.safetensors")
    assert torch.equal(velocity(fresh), velocity(model)) and fresh.config.image_size == 48
    lora.load_adapter(copy.deepcopy(micro.model).bfloat16(), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="carry an adapter already"):
        lora.load_adapter(fresh, tmp_path / "a.safetensors")


def test_an_adapter_that_lies_beside_weights_does_not_change_what_results_belong_to(micro_folder, tmp_path):
    weights = tmp_path / "weights"
    shutil.copytree(micro_folder, weights)
    before = weights_hash(weights)
    (weights / "fast.safetensors").write_bytes((weights / "vae.safetensors").read_bytes())
    assert weights_hash(weights) == before != weights_hash(weights, weights / "fast.safetensors")


def test_what_is_no_adapter_of_these_weights_is_refused_in_a_line(model, micro, tmp_path):
    lora.put_on(model, "gen", 2)
    good, file = tmp_path / "good.safetensors", tmp_path / "a.safetensors"
    lora.save_adapter(model, good)
    about, tensors = model.adapter, load_file(good)
    other = copy.deepcopy(micro.model)
    other.layers[0].attn.gen.qkv.weight.data += 0.1

    def said(of=tensors, **changed):
        return lambda: save_file(of, file, {"adapter": json.dumps(about | changed)})

    cases = [
        (said(), other, "other weights"),
        (said(branch="neither"), micro.model, "other weights"),
        (said(rank=3), micro.model, "not those of rank 3"),
        (said(rank=10**12), micro.model, "not those of rank"),  # and nothing of that size is made
        (said(scale="much"), micro.model, "not an adapter"),
        (said(dict([*tensors.items()][1:])), micro.model, "not those of rank 2"),
        (lambda: save_file(tensors, file), micro.model, "not an adapter"),
        (lambda: save_file(tensors, file, {"adapter": "3"}), micro.model, "not an adapter"),
        (lambda: file.write_bytes(good.read_bytes()[:100]), micro.model, "not an adapter"),
        (file.unlink, micro.model, "no such file"),
    ]
    for make, weights, words in cases:
        make()
        with pytest.raises(UserError, match=f"^--adapter .*{words}"):
            lora.load_adapter(copy.deepcopy(weights), file)


def test_peft_reads_our_file_and_we_read_its(model, micro, tmp_path):
    lora.put_on(model, "gen", 4, scale=0.5)
    lora.save_adapter(stirred(model), tmp_path / "ours.safetensors")
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=[*lora.adapted(micro.model, "gen")])
    theirs = peft.get_peft_model(copy.deepcopy(micro.model), config)
    result = peft.set_peft_model_state_dict(theirs, load_file(tmp_path / "ours.safetensors"))
    assert not result.unexpected_keys and not any("lora" in key for key in result.missing_keys)
    assert (velocity(theirs.base_model.model) - velocity(model)).abs().max() < 1e-5

    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data += 0.01
    state = {name: tensor.contiguous() for name, tensor in peft.get_peft_model_state_dict(theirs).items()}
    save_file(state, tmp_path / "theirs.safetensors", {"adapter": json.dumps(model.adapter)})
    ours = copy.deepcopy(micro.model)
    lora.load_adapter(ours, tmp_path / "theirs.safetensors")
    assert (velocity(theirs.base_model.model) - velocity(ours)).abs().max() < 1e-5


def command(script, *words, cwd, processes=1):
    if processes == 1:
        return run_inside(importlib.import_module(script.removesuffix(".py")).main, *words, cwd=cwd)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*start, ROOT / script, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "3", "reflow"])
def test_a_run_trains_the_adapter_alone_resumes_and_shares_its_work(stage, micro, tmp_path):
    drawn = tmp_path / "drawn"  # a gen branch that is no copy of und any more
    save_checkpoint(drawn, replace(micro, history=[{"stage": "2", "steps": 1, "seconds": 1}]))
    flags = ["--stage", stage, "--init", drawn, "--lora", 2, "--batch", 4, "--size", 64, "--device", "cpu"]
    flags += ["--data", "phantom:12", "--workers", 0, "--lr", 0.01, "--decay", 0]
    flags += ["--mix", "0:1"] * (stage != "reflow")

    def train(out, steps, *more, processes=1):
        ran = command("train.py", *flags, "--steps", steps, "--out", out, *more, cwd=tmp_path, processes=processes)
        assert ran.returncode == 0, ran.stderr
        return tmp_path / out / "checkpoint"

    whole = train("whole", 4)
    about = json.loads((whole / "config.json").read_text())["history"][-1]
    assert about["lora"] == 2
    base, saved = load_file(drawn / "model.safetensors"), load_file(whole / "model.safetensors")
    assert base.keys() == saved.keys() and all(torch.equal(base[name], saved[name]) for name in base)
    adapter = load_file(whole / "adapter.safetensors")
    assert any("lora_B" in name and tensor.any() for name, tensor in adapter.items())
    branch = "und" if stage == "1" else "gen"
    assert all(f".{branch}." in name for name in adapter)
    assert load_checkpoint(tmp_path / "whole").model.adapter["branch"] == branch  # --weights RUN carries it
    ran = command("weights.py", "convert", "whole", "half", "--dtype", "float16", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr

    train("parts", 2)
    parts = train("parts", 4, "--resume")
    assert (parts / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()
    two = load_file(train("two", 4, processes=2) / "adapter.safetensors")
    assert all((two[name] - tensor).abs().max() < 1e-4 for name, tensor in adapter.items())


@pytest.mark.slow
def test_sample_takes_an_adapter_and_merge_makes_weights_of_it(model, micro_folder, tmp_path):
    lora.put_on(model, "gen", 2)
    lora.save_adapter(stirred(model), tmp_path / "a.safetensors")
    draw = ("Edema.", "--steps", 3, "--device", "cpu")
    with_it = ("--weights", micro_folder, "--adapter", "a.safetensors")
    ran = command("weights.py", "merge", micro_folder, "a.safetensors", "merged", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for words, out in ((with_it, "a.png"), (("--weights", "merged"), "b.png"), (with_it[:2], "c.png")):
        ran = command("sample.py", *draw, *words, "--out", out, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"), dtype=int) for name in "abc")
    assert abs(a - b).max() <= 1 < abs(a - c).max()  # W + BA and W, then BA, round otherwise
    ran = command("sample.py", *draw, "--weights", "merged", "--adapter", "a.safetensors", cwd=tmp_path)
    assert ran.returncode == 2 and "other weights" in ran.stderr
