"""The training losses: golden numbers, gradients against finite differences, and each stage learns eight examples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import data
import test_golden
import train
from checkpoints.presets import init_weights
from losses import Batch, repa_loss, token_loss
from model import UniX
from phantoms.dataset import Phantoms
from reports.phrases import common_targets, visible
from speed.feature_cache import FeatureCache
from test_golden import SPEC
from training.pretraining import EveryStageLoss
from vae import VAE, VAEConfig
from weights import Checkpoint

GOLDEN = Path(__file__).parent / "golden"


golden_model = test_golden.model  # the fixture


class Given:
    """Stands where the frozen encoders do: posteriors of variance 0 around the golden latents."""

    def __init__(self, latents):
        self.mean = latents / 0.238092 - 0.201906  # undoes the autoencoder's normalisation

    def __call__(self, index, images):
        return self.mean, torch.full_like(self.mean, -60.0)


def test_one_training_step_has_the_golden_losses(golden_model):
    expected = load_file(GOLDEN / "unix_tiny_expected.safetensors")
    model, config = golden_model, golden_model.config
    spec = json.loads((GOLDEN / "unix_tiny.json").read_text())
    side, latents = 4, expected["train_latent"][None]
    draw = Batch(
        index=torch.tensor([0]),
        image=torch.zeros(1, 64, 64, dtype=torch.uint8),
        prompts=[spec["prompt_ids"]],
        posterior_noise=torch.randn(latents.shape),
        noise=expected["train_noise"].T.reshape(1, -1, side, side),
        t_normal=expected["train_t_raw"],
    )
    losses = EveryStageLoss(model, VAE(VAEConfig(ch=32, num_res_blocks=1)), torch.nn.ModuleDict(), Given(latents), 0.0)
    loss, _ = losses({"draw": draw}, {"draw": 1})
    assert loss.item() == pytest.approx(expected["train_mse_per_element"].mean().item(), abs=1e-4)

    text_ids, targets = data.pack_answers([SPEC["prompt_ids"]], [SPEC["answer_ids"]], config)
    per_token = token_loss(model, model.text_states(expected["pixels"][None], text_ids), targets)
    torch.testing.assert_close(per_token, expected["train_ce_per_token"], atol=1e-4, rtol=0)
    # Two terms of six: what this process adds to the loss of a batch that others share.
    read = Batch(torch.tensor([0]), torch.zeros(1, 64, 64, dtype=torch.uint8), text_ids, targets)
    n = read.terms()
    assert losses({"read": read}, {"read": 3 * n})[0].item() == pytest.approx(
        losses({"read": read}, {"read": n})[0].item() / 3
    )


def frozen_features(checkpoint, dtype):
    vae = checkpoint.vae
    return FeatureCache(lambda images: vae.posterior(vae.preprocess(images).to(dtype)), 8)


def examples_of(micro, stage, batch, size=64, cache=None, **more):
    side = size if stage == "vae" else 256  # the autoencoder's eight: whole pictures, no crops
    source = Phantoms(8, side, cache=cache)
    vocabulary = common_targets([visible(source, i) for i in range(8)], least=1)
    stream = data.Examples(source, stage, size, 0, micro.encode, micro.model.config, batch, vocabulary, **more)
    return source, stream, vocabulary


def test_what_a_report_leaves_uncertain_has_no_part_in_the_loss(micro):
    heads = torch.nn.ModuleDict({"phrases": torch.nn.Linear(64, 3)})
    losses = EveryStageLoss(micro.model, micro.vae, heads, frozen_features(micro, torch.float32), 0.0)
    image = torch.zeros(2, 64, 64, dtype=torch.uint8)
    batch = Batch(torch.arange(2), image, phrases=torch.tensor([[1.0, 0.0, torch.nan], [torch.nan, 1.0, 0.0]]))
    probability = losses.phrase_logits(batch).sigmoid().detach().numpy()
    right = np.array([*probability[0, :1], 1 - probability[0, 1], probability[1, 1], 1 - probability[1, 2]])
    loss, _ = losses({"see": batch}, {"see": batch.terms()})
    assert batch.terms() == 4 and loss.item() == pytest.approx(-np.log(right).mean(), rel=1e-5)


def test_a_shift_of_the_times_is_one_of_their_logits(micro):
    """s t / (1 + (s - 1) t) with t = sigmoid(n) is sigmoid(n + ln s): the same examples, nearer to the noise."""
    checkpoint, stream = stirred(fresh(micro)), examples_of(micro, "3", 4)[1]
    batch = data.collate(checkpoint.model.config, [stream[i] for i in range(4)])["draw"]
    later = Batch(**{**batch.__dict__, "t_normal": batch.t_normal + np.log(2)})
    features = frozen_features(checkpoint, torch.float32)
    shifted, plain = (
        EveryStageLoss(checkpoint.model, checkpoint.vae, torch.nn.ModuleDict(), features, 0.0, time_shift=shift)
        for shift in (2.0, 1.0)
    )
    with torch.no_grad():
        loss = shifted({"draw": batch}, {"draw": 4})[0].item()
        assert loss == pytest.approx(plain({"draw": later}, {"draw": 4})[0].item(), rel=1e-5)
        assert loss != pytest.approx(plain({"draw": batch}, {"draw": 4})[0].item(), rel=1e-3)


@pytest.mark.parametrize("stage", ["1", "2"])
def test_the_order_inside_a_step_changes_its_padding_and_not_its_loss(micro, stage):
    losses = EveryStageLoss(micro.model, micro.vae, torch.nn.ModuleDict(), frozen_features(micro, torch.float32), 0.0)
    stream, kind = examples_of(micro, stage, 8)[1], data.KINDS[stage]

    def loss_and_padded_length(step, order):
        share = data.share(8, 2, 0, 1, start=step, steps=step + 1, order=order)
        batches = [batch[kind] for batch in data.batches(stream, share, workers=0)]
        totals = {kind: sum(batch.terms() for batch in batches)}
        with torch.no_grad():
            loss = sum(losses({kind: batch}, totals)[0].item() for batch in batches)
        if stage == "1":
            return loss, sum(batch.text_ids.shape[1] for batch in batches)
        return loss, sum(max(len(prompt or ()) for prompt in batch.prompts) for batch in batches)

    ordered, unordered = (
        np.array([loss_and_padded_length(step, order) for step in range(3)]) for order in (stream.by_length, list)
    )
    np.testing.assert_allclose(ordered[:, 0], unordered[:, 0], rtol=1e-6)
    assert ordered[:, 1].sum() < unordered[:, 1].sum()


def fresh(micro, seed=0):
    torch.manual_seed(seed)
    model, vae = (
        UniX(micro.model.config),
        VAE(VAEConfig(ch=8, ch_mult=(1, 2, 4, 4, 4), num_res_blocks=1, norm_groups=4)),
    )
    init_weights(model, torch.Generator().manual_seed(seed))
    return Checkpoint(model, vae, micro.tokenizer)


@torch.no_grad()
def stirred(checkpoint):
    """The same with noise in its gen branch, which says 0 at every time when it is fresh."""
    for _, parameter in checkpoint.model.gen_parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return checkpoint


@pytest.mark.slow
def test_gradients_of_the_gen_branch_are_the_losss_slope(micro):
    """Central differences in float64-like steps along random directions of every gen tensor; und has no gradient."""
    checkpoint = stirred(fresh(micro))
    model = checkpoint.model
    model.double(), checkpoint.vae.double()
    model.compute_dtype = torch.float64
    gen = dict(model.gen_parameters())
    train.freeze([model, checkpoint.vae], gen, torch.float64)
    _, stream, _ = examples_of(micro, "2", 4)
    batch = data.collate(model.config, [stream[i] for i in range(4)])
    features = frozen_features(checkpoint, torch.float64)
    losses = EveryStageLoss(model, checkpoint.vae, torch.nn.ModuleDict(), features, 0.0)
    loss, _ = losses(batch, {"draw": 4})
    loss.backward()
    assert all(parameter.grad is None for _, parameter in model.und_parameters())  # absent, not zero
    generator = torch.Generator().manual_seed(1)
    for name, parameter in gen.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        slope = (parameter.grad * direction).sum().item()
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(sign * 1e-3 * direction)
                values.append(losses(batch, {"draw": 4})[0].item())
                parameter.sub_(sign * 1e-3 * direction)
        # The loss itself is float32 (it is taken in float32 on purpose), which limits the difference.
        assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=0.02, abs=2e-3), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "steps", "rate", "floor"),
    [("vae", 60, 3e-3, 0.4), ("vit", 80, 4e-3, 0.1), ("1", 60, 3e-3, 0.1), ("2", 80, 3e-3, 0.5), ("3", 80, 3e-3, 0.5)],
)
def test_each_stage_learns_eight_examples_by_heart(micro, tmp_path, stage, steps, rate, floor):
    """floor: of the loss at the start. Drawing cannot reach 0: noise of eight pictures, but new at every step."""
    checkpoint = fresh(micro)
    model, vae = checkpoint.model, checkpoint.vae
    _, stream, vocabulary = examples_of(micro, stage, 8, cache=tmp_path)
    heads = torch.nn.ModuleDict()
    if stage == "vit":
        heads["phrases"] = torch.nn.Linear(2 * model.config.vit.width, len(vocabulary))
    features = frozen_features(checkpoint, torch.float32)
    losses = EveryStageLoss(model, vae, heads, features, 0.0)
    part = {"vae": vae.parameters(), "vit": model.vit.parameters()}.get(stage)
    named = model.und_parameters() if stage == "1" else model.gen_parameters()
    parameters = list(part) if part else [parameter for _, parameter in named]
    optimizer = torch.optim.AdamW([*parameters, *heads.parameters()], lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    history = []
    for step in range(steps):
        batch = data.collate(model.config, [stream[8 * step + i] for i in range(8)])
        totals = {kind: each.terms() for kind, each in batch.items()}
        loss, _ = losses(batch, totals)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-5:]) / 5 < floor * history[0], history[::10]


def test_repa_loss_is_the_negative_cosine():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert repa_loss(x, 3 * x).item() == pytest.approx(-1)
    assert repa_loss(x, -x).item() == pytest.approx(1)
    assert repa_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])).item() == pytest.approx(-(0.5**0.5))
