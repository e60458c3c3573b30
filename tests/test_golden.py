"""The reference implementation's numbers (float32, CPU), reproduced from files in the published layouts.

tests/golden/ holds three small models by rule (no weight file is needed) and what the reference computes with them.
"""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import flow
from checkpoints.configs import unix_config
from checkpoints.janus import JanusPro, start_from_janus
from checkpoints.layouts import JANUS, translate_janus, translate_unix
from checkpoints.plan import empty, load_tensors
from checkpoints.published import load_vae
from checkpoints.tensors import Tensors
from generate import generate, naive_generate, stream
from golden.weights_by_rule import state_dict
from guided import guided_velocity
from losses import token_loss
from model import UniX, UniXConfig
from vit import ViTConfig

GOLDEN = Path(__file__).parent / "golden"
SPEC = json.loads((GOLDEN / "unix_tiny.json").read_text())


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "unix_tiny_expected.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    save_file(state_dict("unix_tiny"), path)
    ids = SPEC["special_ids"]
    config = UniXConfig(
        hidden_size=SPEC["hidden_size"],
        intermediate_size=SPEC["intermediate_size"],
        num_layers=SPEC["num_hidden_layers"],
        num_heads=SPEC["num_attention_heads"],
        vocab_size=SPEC["vocab_size"],
        connector_act=SPEC["connector_act"],
        max_latent_size=SPEC["max_latent_size"],
        bos=ids["bos_token_id"],
        eos=ids["eos_token_id"],
        boi=ids["start_of_image"],
        eoi=ids["end_of_image"],
        vit=ViTConfig(
            image_size=SPEC["image_size"],
            patch_size=SPEC["vit_patch"],
            width=SPEC["vit_width"],
            layers=SPEC["vit_layers"],
            heads=SPEC["vit_heads"],
            mlp_width=4 * SPEC["vit_width"],
        ),
    )
    model = UniX(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))  # whatever the file does not fill would show
    counts = load_tensors(model, path, translate_unix).counts()
    assert counts["read"] + counts["skipped"] == len(SPEC["keys"])
    return model


def to_image(tokens, side=4):
    """(h * w, C), row-major -> (1, C, h, w)."""
    return tokens.T.reshape(1, -1, side, side)


def to_tokens(image):
    return image[0].flatten(1).T


def test_vit_features(model, expected):
    close(model.vit(expected["pixels"][None])[0], expected["vit_features"])


@pytest.mark.parametrize("time", ["1.0", "0.37"])
@torch.no_grad()
def test_velocities(model, expected, time):
    x, t = to_image(expected["noise"]), torch.tensor([float(time)])
    cond = model.velocity(x, t, model.read_prompt([SPEC["prompt_ids"]]))
    uncond = model.velocity(x, t, model.read_prompt([None]))
    close(to_tokens(model(x, t, [SPEC["prompt_ids"]])), expected[f"velocity_cond_t{time}"])  # without a cache
    guided = flow.guide(cond, uncond, SPEC["generate"]["cfg_scale"])
    close(to_tokens(cond), expected[f"velocity_cond_t{time}"])
    close(to_tokens(uncond), expected[f"velocity_uncond_t{time}"])
    close(to_tokens(guided), expected[f"velocity_cfg_t{time}"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 5e-2)])
@torch.no_grad()
def test_velocities_on_a_gpu(model, expected, dtype, tolerance, device="cuda"):
    copied = UniX(model.config, compute_dtype=dtype)
    copied.load_state_dict(model.state_dict())
    copied.to(device, dtype)
    prompt, wanted = copied.read_prompt([SPEC["prompt_ids"]]), expected["velocity_cond_t0.37"]
    v = copied.velocity(to_image(expected["noise"]).to(device), torch.tensor([0.37], device=device), prompt)
    assert (to_tokens(v).cpu() - wanted).abs().max() < tolerance * wanted.abs().max()


@torch.no_grad()
def test_whole_sampling_run(model, expected):
    settings = SPEC["generate"]
    assert settings["cfg_renorm"] == "global"  # the one that `flow.guide` has
    alone, paired = model.read_prompt([SPEC["prompt_ids"]]), model.read_prompt([SPEC["prompt_ids"], None])

    def both(x, t):
        return model.velocity(torch.cat([x, x]), torch.cat([t, t]), paired).chunk(2)

    velocity = guided_velocity(
        lambda x, t: model.velocity(x, t, alone),
        both,
        settings["cfg_scale"],
        tuple(settings["cfg_interval"]),
    )
    times = flow.timesteps(settings["num_timesteps"], settings["timestep_shift"])
    latents = flow.euler(velocity, to_image(expected["noise"]), times)
    close(to_tokens(latents), expected["latent_final"])


def test_greedy_decoding(model, expected):
    steps = len(SPEC["greedy_ids"])
    pixels, question = expected["pixels"][None], SPEC["prompt_ids"]
    logits = [logits for _, logits in stream(model, pixels, [model.asked(question)], steps)]
    close(torch.stack(logits, dim=1)[0], expected["greedy_logits"])
    assert generate(model, pixels, [question], steps) == [SPEC["greedy_ids"]]
    assert naive_generate(model, pixels, question, steps) == SPEC["greedy_ids"]


def test_report_loss(model, expected):
    config, answer = model.config, SPEC["answer_ids"]
    text = [config.bos, *SPEC["prompt_ids"], config.eos, config.bos, *answer, config.eos]
    targets = [-100] * (len(text) - len(answer) - 2) + answer + [config.eos, -100]
    losses = token_loss(
        model, model.text_states(expected["pixels"][None], torch.tensor([text])), torch.tensor([targets])
    )
    close(losses, expected["train_ce_per_token"])


def test_velocity_loss(model, expected):
    data, noise = expected["train_latent"][None], to_image(expected["train_noise"])
    t = flow.training_time(expected["train_t_raw"])
    v = model.velocity(flow.interpolate(data, noise, t), t, model.read_prompt([SPEC["prompt_ids"]]))
    close(to_tokens(flow.velocity_error(v, data, noise)), expected["train_mse_per_element"])


@torch.no_grad()
def test_vae(tmp_path):
    spec = json.loads((GOLDEN / "vae_tiny.json").read_text())
    expected = load_file(GOLDEN / "vae_tiny_expected.safetensors")
    save_file(state_dict("vae_tiny"), tmp_path / "vae.safetensors")
    vae = load_vae(tmp_path / "vae.safetensors")
    assert (vae.config.ch, vae.config.ch_mult) == (spec["ch"], tuple(spec["ch_mult"]))

    mean, log_variance = vae.posterior(expected["x"])
    close(mean, expected["mean"])
    close(log_variance, expected["logvar"])
    latent = vae.encode(expected["x"])
    close(latent, expected["latent"])
    close(vae.decode(latent), expected["reconstruction"])
    assert F.l1_loss(expected["reconstruction"], expected["x"]) > 0.1  # the check above is not of a constant


@torch.no_grad()
def test_janus_itself(tmp_path):
    """Before it is a UniX: causal throughout, no QK norm, no QKV bias (parity mode)."""
    spec = json.loads((GOLDEN / "janus_tiny.json").read_text())
    expected = load_file(GOLDEN / "janus_tiny_expected.safetensors")
    save_file(state_dict("janus_tiny"), tmp_path / "model.safetensors")
    given = {
        "language_config": {"num_attention_heads": spec["num_attention_heads"]},
        "vision_config": {"params": {"heads": spec["vit_heads"]}},
    }
    tensors = Tensors(tmp_path)
    config = unix_config(tensors, JANUS, given, parity=True)
    model = empty(lambda: JanusPro(config), "cpu", torch.float32).eval()
    counts = start_from_janus(model, tensors, translate_janus, given).counts()
    assert counts["read"] + counts["skipped"] == len(spec["keys"])

    pixels, before, after = expected["pixels"][None], spec["ids_before"], spec["ids_after"]
    close(model.vit(pixels)[0], expected["vit_features"])
    close(model.connector(model.vit(pixels))[0], expected["image_embeds"])
    model.before = before
    x, position_ids, mask = model.reading_sequence(model.embed_image(pixels), torch.tensor([after]))
    hidden, _, _ = model.run_layers(x, None, position_ids, mask)
    close(model.to_logits(hidden)[0], expected["logits"])
    steps = len(spec["greedy_ids"])
    assert generate(model, pixels, [after], steps) == [spec["greedy_ids"]]
    assert naive_generate(model, pixels, after, steps) == spec["greedy_ids"]
