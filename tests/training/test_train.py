"""`python train.py` as a user types it, a few steps of each stage on a handful of phantoms."""

import copy
import json
import re
import shutil
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lora
import train
from archives.records import squares
from checkpoints.presets import SIZES, count_parameters, preset
from common.distributed import Team
from common.errors import UserError
from common.files import SHIPPED
from inside import run_inside
from micro import micro_config
from model import UniX
from phantoms.dataset import Phantoms
from published import golden_folder
from speed.feature_cache import FeatureCache
from training import setup
from training.flags import parse_args
from training.recipe import STAGES, Recipe
from vae import VAE, sample_posterior
from weights import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]


def run(*arguments, cwd):
    return run_inside(train.main, "--data", "phantom:12", "--workers", 0, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def trained(micro_folder, tmp_path_factory):
    """The folder in which all stages ran one after the other, each from the one before."""
    folder = tmp_path_factory.mktemp("training")
    common = ["--batch", 4, "--steps", 3, "--look-every", 2]
    for stage in STAGES:
        start = ["--init", micro_folder] if stage == "vae" else []
        size = 128 if stage == "3" else 64
        result = run("--stage", stage, *start, *common, "--size", size, cwd=folder)
        assert result.returncode == 0, result.stderr
        expected = str(micro_folder) if start else f"out/stage-{STAGES[STAGES.index(stage) - 1]}"
        assert f"starting from {expected}" in result.stdout
    return folder


def states(folder, stages):
    return [load_checkpoint(folder / f"out/stage-{stage}").model for stage in stages]


@pytest.mark.slow
def test_each_stage_trains_its_own_branch_and_leaves_the_other_bit_for_bit(trained):
    first, second, third = states(trained, "123")
    for before, after in ((first, second), (second, third)):
        for name, parameter in before.und_parameters():
            assert torch.equal(parameter, after.get_parameter(name)), name
        changed = [name for name, p in before.gen_parameters() if not torch.equal(p, after.get_parameter(name))]
        assert {name.split(".")[0] for name in changed} == {"layers", "norm", "time_embedder", "vae2llm", "llm2vae"}


def test_a_published_unix_goes_on_drawing_and_a_janus_pro_begins(micro, tmp_path):
    """Its gen branch is no copy of und any more, and must not become one."""
    alone = Team(0, 1, torch.device("cpu"))
    unix = golden_folder(tmp_path / "UniX", "unix_tiny", micro)
    for stage in ("3", "reflow"):
        started = setup.start_from(stage, unix, {}, None, alone).model
        published = dict(load_checkpoint(unix).model.gen_parameters())
        assert all(torch.equal(parameter, published[name]) for name, parameter in started.gen_parameters())
    attention = started.layers[0].attn
    assert not torch.equal(attention.gen.qkv.weight, attention.und.qkv.weight)
    save_checkpoint(tmp_path / "ours", load_checkpoint(unix))  # nor after weights.py convert
    kept = setup.start_from("3", tmp_path / "ours", {}, None, alone).model.layers[0].attn.gen.qkv.weight
    assert torch.equal(kept, attention.gen.qkv.weight)
    janus = golden_folder(tmp_path / "Janus", "janus_tiny", micro)
    attention = setup.start_from("2", janus, {}, None, alone).model.layers[0].attn
    assert torch.equal(attention.gen.qkv.weight, attention.und.qkv.weight)


def test_stage_reflow_refuses_weights_that_do_not_draw_or_carry_an_adapter(micro, micro_folder, tmp_path):
    alone, drawn = Team(0, 1, torch.device("cpu")), replace(copy.deepcopy(micro), history=[{"stage": "2"}])
    with pytest.raises(UserError, match="have not learnt to draw"):
        setup.start_from("reflow", micro_folder, {}, None, alone)
    lora.put_on(drawn.model, "gen", 2)
    save_checkpoint(tmp_path / "adapted", drawn)
    with pytest.raises(UserError, match="carry an adapter"):
        setup.start_from("reflow", tmp_path / "adapted", {}, None, alone)


def test_an_adapter_alone_cannot_teach_weights_to_draw(micro_folder):
    """What leads out of the latents begins at zero in them, and would stay there: every gradient is zero."""
    for stage in ("2", "3"):
        with pytest.raises(UserError, match=r"--lora 4: .* not learnt to draw"):
            setup.start_from(stage, micro_folder, {"lora": 4}, None, Team(0, 1, torch.device("cpu")))


def test_only_weights_that_lose_something_are_kept_twice():
    """Published ones are bfloat16 already: their originals would cost 13 GB of memory for nothing."""
    model = UniX(micro_config())
    model.lm_head.weight.data = model.lm_head.weight.data.bfloat16().float()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    originals = train.freeze([model], {}, torch.bfloat16)
    assert "lm_head.weight" not in originals and "layers.0.und.mlp.gate_up.weight" in originals
    for name, parameter in model.named_parameters():
        assert torch.equal(originals.get(name, parameter.float()), before[name]), name


@pytest.mark.slow
def test_gen_branch_leaves_stage_2_near_the_und_branch_it_was_copied_from(trained):
    (second,) = states(trained, "2")
    gen, und = (second.layers[0].attn.__getattr__(branch).qkv.weight for branch in ("gen", "und"))
    assert 0 < (gen - und).abs().max() < 0.01  # three steps at a warming-up rate


def test_the_eye_is_trained_first_and_alone(trained, micro):
    (seen,) = states(trained, ["vit"])
    for name, parameter in micro.model.named_parameters():
        assert torch.equal(parameter, seen.get_parameter(name)) != name.startswith("vit."), name


def test_autoencoder_is_trained_by_its_stage_only(trained, micro):
    weights = [load_checkpoint(trained / f"out/stage-{s}").vae.state_dict() for s in STAGES]
    assert any(not torch.equal(value, weights[0][name]) for name, value in micro.vae.state_dict().items())
    for later in weights[1:]:
        assert all(torch.equal(value, later[name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_a_decoder_that_trains_alone_keeps_the_latents(micro, micro_folder, tmp_path):
    flags = ["--train", "decoder", "--steps", 2, "--batch", 4, "--size", 64]
    result = run("--stage", "vae", "--init", micro_folder, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    after, before = load_checkpoint(tmp_path / "out/stage-vae").vae, micro.vae
    assert after.config == before.config  # the latents' scale and shift among it
    changed = {n for n, p in before.named_parameters() if not torch.equal(p, after.get_parameter(n))}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["0:1", "1:3"])
def test_the_ablation_trains_both_branches(micro, micro_folder, tmp_path, mix):
    flags = ["--train", "both", "--mix", mix, "--steps", 2, "--batch", 8, "--size", 64]
    result = run("--stage", "2", "--init", micro_folder, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    after = load_checkpoint(tmp_path / "out/stage-2").model
    changed = {n for n, p in micro.model.und_parameters() if not torch.equal(p, after.get_parameter(n))}
    assert any(name.startswith("layers.") for name in changed)
    assert ("lm_head.weight" in changed) == (mix != "0:1")  # without reading examples nothing asks for words
    record = json.loads((tmp_path / "out/stage-2/metrics.jsonl").read_text().splitlines()[0])
    assert ("read" in record) == (mix != "0:1")


@pytest.mark.slow
def test_without_repa_stage_2_sees_the_same_examples(micro_folder, tmp_path):
    """One start, one order of examples, one noise: the first step's error of the velocity is the same, REPA or not."""
    first = {}
    for weight in ("0.5", "0"):
        flags = ["--repa-weight", weight, "--steps", 1, "--batch", 4, "--size", 64, "--out", weight]
        result = run("--stage", "2", "--init", micro_folder, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        first[weight] = json.loads((tmp_path / weight / "metrics.jsonl").read_text().splitlines()[0])
    assert "repa" not in first["0"] and "mse" not in first["0"]
    assert first["0"]["loss"] == pytest.approx(first["0.5"]["mse"], rel=1e-6)
    assert first["0.5"]["loss"] == pytest.approx(first["0.5"]["mse"] + 0.5 * first["0.5"]["repa"])
    result = run("--stage", "2", "--resume", "--steps", 2, "--repa-weight", "0.25", "--out", "0.5", cwd=tmp_path)
    assert result.returncode == 2 and "with --repa-weight 0.5, not with" in result.stderr, result.stderr


@pytest.mark.slow
def test_profile_prints_where_a_steps_time_goes_and_writes_nothing(micro_folder, tmp_path):
    flags = ["--profile", "--steps", 2, "--batch", 4, "--size", 64]
    result = run("--stage", "2", "--init", micro_folder, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("data", "forward", "backward", "optimizer", "TFLOP a step"):
        assert words in result.stdout
    assert not (tmp_path / "out/stage-2").exists()
    for idle in (["--save-every", 5], ["--resume"]):
        result = run("--stage", "2", "--profile", *idle, cwd=tmp_path)
        assert result.returncode == 2 and f"{idle[0]}: --profile writes nothing" in result.stderr


@pytest.mark.slow
def test_latents_are_normalised_by_what_was_measured(trained):
    checkpoint = load_checkpoint(trained / "out/stage-vae")
    images = torch.tensor(np.stack(squares(Phantoms(12), 12, 64)[1]))
    with torch.no_grad():
        latents = checkpoint.vae.encode(VAE.preprocess(images))
    assert latents.mean().item() == pytest.approx(0, abs=1e-3)
    assert latents.std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_a_run_leaves_metrics_pictures_and_its_history(trained):
    for stage in STAGES:
        run_folder = trained / f"out/stage-{stage}"
        lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert ("repa" in lines[0]) == (stage == "2")
        Image.open(run_folder / "loss.png").verify()
        pictures = [] if stage == "vit" else ["step-000002.png", "step-000003.png"]
        assert sorted(p.name for p in (run_folder / "samples").iterdir()) == pictures
    checkpoint = load_checkpoint(run_folder)
    assert [entry["stage"] for entry in checkpoint.history] == list(STAGES)
    assert [entry.get("repa_weight") for entry in checkpoint.history] == [None, None, None, 0.5, None, None]
    assert [entry.get("mix") for entry in checkpoint.history] == [None, None, "1:3", "0:1", "0:1", None]
    assert checkpoint.model.config.image_size == 128


def test_the_defaults_are_table_1_of_the_paper():
    one, two, three = (train.RECIPES["unix"][stage] for stage in "123")
    assert (one.learning_rate, two.learning_rate, three.learning_rate) == (1e-4, 2e-4, 1e-4)
    assert (one.size, two.size, three.size) == (384, 256, 512)
    assert one.batch == two.batch == three.batch == 256
    assert (one.warmup, two.warmup, three.warmup) == (80, 2000, 0)
    assert (one.steps, two.steps, three.steps) == (3840, 75000, 5000)
    assert (one.repa_weight, two.repa_weight, three.repa_weight) == (0, 0.5, 0)
    factors = [train.schedule(step, two) for step in (0, 999, 1999, 2000, 74999)]
    assert factors == pytest.approx([1 / 2000, 0.5, 1, 1, 1])
    assert train.schedule(74999, replace(two, decay=0.2)) == pytest.approx(1 / 15000)
    for recipe in (one, two, three):  # nothing that the paper does not name
        own = Recipe(*astuple(recipe)[:5], repa_weight=recipe.repa_weight, micro_batch=recipe.micro_batch)
        assert recipe == own and recipe.time_shift == 1 and not recipe.decay and not recipe.ema


def test_the_small_preset_has_20_to_30_million_parameters_and_its_own_recipe():
    assert 20e6 < count_parameters(preset("small"))["total"] < 30e6
    recipes = train.RECIPES["small"]
    assert list(recipes) == list(STAGES)
    assert recipes["vit"].size == recipes["1"].size == preset("small").vit.image_size


def scratch(preset, data, cache):
    return setup.from_scratch(preset, str(data), 0, Team(0, 1, torch.device("cpu")))


def test_a_fresh_tiny_model_has_room_for_more_pieces_than_phantoms_yield(tmp_path):
    fresh = scratch("tiny", "phantom:20", tmp_path)
    assert fresh.model.config == preset("tiny") and fresh.tokenizer.get_vocab_size() <= 768


def films(folder, reports):
    folder.mkdir()
    for number, _ in enumerate(reports):
        Image.new("L", (8, 8)).save(folder / f"{number}.png")
    rows = [json.dumps({"image": f"{number}.png", "report": report}) for number, report in enumerate(reports)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def test_a_fresh_model_learns_its_words_from_the_reports_it_will_read(tmp_path):
    reports = [f"FINDINGS: A quagmire of the {place}." for place in ("arch", "apex", "hilum", "rib", "lobe", "lung")]
    fresh = scratch("small", films(tmp_path / "films", reports), tmp_path / "cache")
    assert fresh.model.config == replace(preset("small"), bos=0, eos=1, boi=2, eoi=3)
    assert len(fresh.encode(" quagmire")) == 1 and len(fresh.encode(" cardiomegaly")) > 4
    assert fresh.decode(fresh.encode(reports[0])) == reports[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reports", "words"),
    [(["Clear lungs."] * 12, "its reports say all the same"), ([""] * 12, "12 empty report"), ([], "no rows")],
)
def test_films_that_teach_nothing_are_refused(micro_folder, tmp_path, reports, words):
    data = films(tmp_path / "films", reports)
    result = run("--stage", "vit", "--init", micro_folder, "--data", data, cwd=tmp_path)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert words in lines[0] and not (tmp_path / "out/stage-vit").exists()


def test_kept_posteriors_are_the_computed_ones(micro):
    vae, calls = micro.vae, []

    def posterior(images):
        calls.append(len(images))
        return tuple(part.to(torch.bfloat16) for part in vae.posterior(vae.preprocess(images)))

    features = FeatureCache(posterior, 12)
    images = torch.tensor(np.stack(squares(Phantoms(12), 4, 64)[1]))
    index = torch.tensor([7, 3, 11, 0])
    computed, kept = features(index, images), features(index.flip(0), images * 0)
    assert calls == [1, 4]  # one to see whether all fit
    for first, second in zip(computed, kept, strict=True):
        assert first.dtype == torch.bfloat16 and torch.equal(first.flip(0), second)
    other = torch.tensor(np.stack(squares(Phantoms(20), 6, 64)[1]))[3:]  # two new ones beside one that is known
    mixed = features(torch.tensor([5, 3, 6]), torch.stack([other[0], images[0] * 0, other[1]]))
    again = FeatureCache(posterior, 12)  # a run that goes on elsewhere
    elsewhere = again(torch.tensor([6, 5]), other[[1, 0]])
    assert calls == [1, 4, 4, 1, 4]
    for here, there, first in zip(mixed, elsewhere, computed, strict=True):
        assert torch.equal(here[[2, 0]], there) and torch.equal(here[1], first[1])


def test_what_does_not_fit_is_computed_each_time(micro, monkeypatch):
    monkeypatch.setattr(FeatureCache, "MAX_BYTES", 90)
    calls = []
    features = FeatureCache(lambda images: (calls.append(len(images)), images[:, :1])[1:], 12)
    images = torch.randint(0, 255, (3, 8, 8), dtype=torch.uint8)
    for _ in range(2):
        assert torch.equal(features(torch.tensor([1, 5, 2]), images)[0], images[:, :1])
    assert calls == [1, 3, 3]


def test_posterior_sampling_is_mean_plus_sigma_noise():
    mean, noise = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
    torch.testing.assert_close(
        sample_posterior(mean, torch.log(torch.tensor([4.0, 9.0])), noise), torch.tensor([3.0, -1.0])
    )


def test_the_gen_branch_may_start_from_another_models_und_branch(micro, micro_folder, janus, tmp_path):
    def start(gen_from):
        team = Team(0, 1, torch.device("cpu"))
        return setup.start_from("2", micro_folder, {"gen_from": gen_from}, None, team).model

    other = copy.deepcopy(micro)
    for parameter in other.model.parameters():
        parameter.data.add_(1)
    save_checkpoint(tmp_path / "start", other)
    theirs, before = dict(other.model.named_parameters()), dict(micro.model.named_parameters())
    for name, parameter in start(tmp_path / "start").named_parameters():
        if ".gen." in name:
            torch.testing.assert_close(parameter, theirs[name.replace(".gen.", ".und.")], rtol=0, atol=0)
        else:
            torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)  # reading is as it was
    published = load_checkpoint(janus).model  # as published, too
    for name, parameter in start(janus).named_parameters():
        if ".gen." in name:
            assert torch.equal(parameter, published.get_parameter(name.replace(".gen.", ".und."))), name
    with pytest.raises(UserError, match=r"--gen-from .*width, MLP and layers"):
        start(SHIPPED)
    with pytest.raises(UserError, match=r"--gen-from .*is trained already; leave it out"):  # it would have no effect
        setup.start_from("2", SHIPPED, {"gen_from": SHIPPED}, None, Team(0, 1, torch.device("cpu")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "1", "--steps", "-1"], ["--steps -1"]),
        (["--stage", "1", "--batch", "0"], ["--batch 0"]),
        (["--stage", "1", "--seed", "-1"], ["--seed -1"]),
        (["--stage", "1", "--save-every", "0"], ["--save-every 0"]),
        (["--stage", "1", "--decay", "1.5"], ["--decay 1.5"]),
        (["--stage", "2", "--size", "100"], ["--size 100", "multiple of 16"]),
        (["--stage", "3", "--size", "4096"], ["--size 4096"]),
        (["--stage", "1", "--size", "32"], ["--size 32", "ViT"]),
        (["--stage", "1", "--data", "mimic"], ["--data mimic"]),
        (["--stage", "1", "--init", "nowhere"], ["nowhere"]),
        (["--stage", "2", "--mix", "1:0", "--train", "both"], ["--mix 1:0"]),
        (["--stage", "2", "--mix", "1:2"], ["--mix 1:2", "--train both"]),
        (["--stage", "2", "--train", "decoder"], ["--train decoder", "stage 2"]),
        (["--stage", "vae", "--mix", "1:2"], ["--mix 1:2", "stage 1 and 2 and 3"]),
        (["--stage", "1", "--train", "both"], ["--train both", "stage vae and 2 and 3"]),
        (["--stage", "2", "--repa", "nowhere"], ["--repa nowhere", "no such folder"]),
        (["--stage", "1", "--repa", "."], ["--repa .", "stage 2"]),
        (["--stage", "3", "--repa-weight", "0"], ["--repa-weight 0", "stage 2"]),
        (["--stage", "2", "--repa", ".", "--repa-weight", "0"], ["--repa .", "--repa-weight 0"]),
        (["--stage", "3", "--gen-from", "."], ["--gen-from .", "stage 2"]),
        (["--stage", "1", "--batch", "7", "--micro-batch", "0"], ["--micro-batch 0"]),
        (["--stage", "1", "--device", "cuda:99"], ["--device cuda:99"]),
        (["--stage", "1", "--out", "file/run"], ["--out file/run"]),
        (["--stage", "1", "--augment"], ["--augment", "real films"]),
        (["--stage", "2", "--observations", "first"], ["--observations first", "stage 1"]),
        (["--stage", "1", "--balance", "3"], ["--balance 3", "real films"]),
        (["--stage", "1", "--init", "scratch:large"], ["--init scratch:large", "tiny, small, unix"]),
        (["--stage", "vae", "--compile"], ["--compile", "stage vae"]),
        (["--stage", "1", "--less-memory", "optimizer"], ["--less-memory optimizer", "this is one"]),
    ],
)
def test_bad_input_is_one_line_that_names_it(micro_folder, tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    init = [] if "--init" in arguments else ["--init", micro_folder]
    result = run(*arguments, *init, cwd=tmp_path)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert all(word in lines[0] for word in words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--stage 2 --mix 1:2", "--mix 1:2: reading teaches the und branch, which stands still; add --train both"),
        ("--stage 2 --repa . --repa-weight 0", "--repa .: --repa-weight 0 trains without REPA"),
        ("--stage 3 --train decoder", "--train decoder: not for stage 3"),
        ("--stage 1 --augment", "--augment: only for real films"),
        ("--stage 1 --init scratch:large", f"one of {', '.join(SIZES)}"),
        ("--stage 2 --mix 1:2 --resume", "nothing: the run that goes on may be one of --train both"),
    ],
)
def test_flags_that_contradict_each_other_wait_for_neither_torch_nor_weights(arguments, said):
    code = """
from training.flags import parse_args
import sys
try:
    parse_args()
    print("nothing: the run that goes on may be one of --train both")
except Exception as error:
    print(error)
print("torch" in sys.modules)"""
    ran = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, cwd=ROOT)
    assert said in ran.stdout and ran.stdout.endswith("False\n"), ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_second_run_replaces_the_checkpoint_only_when_it_is_done(trained, tmp_path):
    shutil.copytree(trained / "out/stage-3", tmp_path / "run")
    before = (tmp_path / "run/checkpoint/model.safetensors").read_bytes()
    result = run(
        "--stage",
        "3",
        "--init",
        tmp_path / "run",
        "--out",
        tmp_path / "run",
        "--steps",
        1,
        "--size",
        64,
        "--batch",
        2,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert before != (tmp_path / "run/checkpoint/model.safetensors").read_bytes()
    assert (tmp_path / "run/checkpoint.old/model.safetensors").read_bytes() == before  # the last two are kept
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_torchrun_takes_no_flag_for_one_of_its_own(monkeypatch, capsys):
    """It refuses what begins like two of its flags (--even: --event-log-handler, --event_log_handler)."""
    from torch.distributed.run import get_args_parser

    import evaluate

    theirs = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    monkeypatch.setattr("sys.argv", ["evaluate.py", "report", "--help"])
    with pytest.raises(SystemExit):
        evaluate.parse_args()
    printed = capsys.readouterr().out
    for stage in STAGES:
        monkeypatch.setattr("sys.argv", ["train.py", "--stage", stage, "--help"])
        with pytest.raises(SystemExit):
            parse_args()
        printed += capsys.readouterr().out
    ours = set(re.findall(r"(?m)^  (--[a-z][a-z-]+)", printed))
    assert len(ours) > 30 and not [flag for flag in ours if any(flag != one and one.startswith(flag) for one in theirs)]
