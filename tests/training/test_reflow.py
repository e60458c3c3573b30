"""Stage reflow: its lines are Eq. 2's, its walks are the sampler's, drawing them goes on, and four steps come to do."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import data
import flow
import lora
import sample
from common.distributed import Team
from common.errors import UserError
from common.files import FAST_ADAPTER, SHIPPED
from common.sampling import FAST
from guided import guided_velocity
from losses import Batch
from phantoms.dataset import Phantoms
from training.pretraining import EveryStageLoss
from training.reflow import KNOTS, Walks, walks_of

ALONE = Team(0, 1, torch.device("cpu"))


def examples(micro, count):
    return data.Examples(
        Phantoms(count), "reflow", 64, 0, micro.encode, micro.model.config, batch=4, prompt_dropout=0.0
    )


def test_a_piece_of_a_walk_is_a_line_of_eq_2_through_both_its_knots(micro, tmp_path):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((3, len(KNOTS), 16, 4, 4)).astype(np.float16)
    (tmp_path / "walks").write_bytes(points.tobytes())
    walks = Walks(**{**vars_of(examples(micro, 3)), "file": tmp_path / "walks"})
    pieces = set()
    for position in range(30):
        one = walks[position]
        piece = KNOTS.index(float(one["t"]))  # it is asked for where the sampler asks: where it begins
        pieces.add(piece)
        for k in (piece, piece + 1):
            there = (1 - KNOTS[k]) * one["latents"] + KNOTS[k] * one["noise"]
            assert np.allclose(there, points[one["index"], k], atol=1e-4)
    assert pieces == set(range(len(KNOTS) - 1))
    batch = data.collate(micro.model.config, [walks[0], walks[1]])["walk"]
    assert batch.t.shape == (2,) and batch.latents.shape == batch.noise.shape == (2, 16, 4, 4)


def vars_of(one):
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_walks_are_those_of_the_guided_sampler(micro, tmp_path):
    """Beside them: Heun's method in ten times as many steps, guided as one would write it first."""
    walks = walks_of(examples(micro, 2), micro, tmp_path, False, ALONE)
    noise = torch.tensor(walks.points[:, 0].astype(np.float32))
    asked = sample.noise_of(micro.model.config, range(2), 64)
    assert abs(noise.std() - 1) < 0.1 and (noise - asked).abs().max() > 1  # nobody is shown what it was trained on
    prompt, nothing = (micro.model.read_prompt(ids) for ids in ([walks.prompt_ids(0)], [None]))

    def conditional(x, t):
        return micro.model.velocity(x, t, prompt)

    def both(x, t):
        return conditional(x, t), micro.model.velocity(x, t, nothing)

    guided = guided_velocity(conditional, both, micro.model.config.guidance)
    with torch.inference_mode():
        alone = flow.heun(conditional, noise[:1], torch.linspace(1, 0, 241))[0]
        x = noise[:1]
        for k, (begin, end) in enumerate(itertools.pairwise(KNOTS)):
            x = flow.heun(guided, x, torch.linspace(begin, end, 61))
            error = (x[0] - torch.tensor(walks.points[0, k + 1].astype(np.float32))).norm() / (x - noise[:1]).norm()
            assert error < 0.05, (k, error)
        assert (alone - x[0]).norm() > 0.1 * (x - noise[:1]).norm()  # guidance leads elsewhere


def test_drawing_goes_on_where_it_was_stopped_and_a_run_that_trains_draws_no_more(micro, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    whole = walks_of(examples(micro, 10), micro, tmp_path / "whole", False, ALONE).points
    drawn = []

    def dies(config, seeds, size, real=sample.noise_of):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(len(seeds))
        return real(config, seeds, size)

    monkeypatch.setattr("training.reflow.noise_of", dies)
    with pytest.raises(KeyboardInterrupt):
        walks_of(examples(micro, 10), micro, tmp_path, False, ALONE)
    with pytest.raises(UserError, match="lost walks"):
        walks_of(examples(micro, 10), micro, tmp_path, True, ALONE)
    drawn.clear()
    parts = walks_of(examples(micro, 10), micro, tmp_path, False, ALONE)
    assert drawn == [2] and np.array_equal(parts.points, whole)
    assert np.array_equal(walks_of(examples(micro, 10), micro, tmp_path, True, ALONE).points, whole)
    with open(parts.file, "r+b") as file:  # killed before the noise of the fourth walk, or within it
        file.seek(int(3 * whole[0].nbytes + whole[0, 0].nbytes / 2))
        file.write(bytes(whole[0, 0].nbytes // 2))
    drawn.clear()
    mended = walks_of(examples(micro, 10), micro, tmp_path, False, ALONE)
    assert drawn == [4] and np.array_equal(mended.points, whole)
    other = copy.deepcopy(micro)
    other.model.layers[0].attn.gen.qkv.weight.data += 0.1
    monkeypatch.undo()
    for changed in ((examples(other, 10), other), (examples(micro, 9), micro)):
        assert walks_of(*changed, tmp_path, False, ALONE).file != parts.file


def test_an_adapter_learns_to_arrive_in_four_steps_without_guidance(micro, tmp_path):
    checkpoint = copy.deepcopy(micro)
    walks = walks_of(examples(checkpoint, 4), checkpoint, tmp_path, False, ALONE)
    ids = [walks.prompt_ids(index) for index in range(4)]

    @torch.no_grad()
    def error():
        _, conditional = sample.prompted_velocities(checkpoint.model, ids, FAST["guidance"])
        times = sample.schedule(FAST["solver"], FAST["steps"])
        assert np.allclose(times, [1, 6 / 7, 2 / 3, 0.4, 0])  # what the shipped adapter has learnt
        x = flow.euler(conditional, torch.tensor(walks.points[:, 0].astype(np.float32)), times)
        return (x - torch.tensor(walks.points[:, -1].astype(np.float32))).square().mean().item()

    before = error()
    torch.manual_seed(0)
    checkpoint.model.requires_grad_(False)
    trained = [*lora.put_on(checkpoint.model, "gen", 32).values()]
    losses = EveryStageLoss(checkpoint.model, checkpoint.vae, nn.ModuleDict(), None, 0.0)
    optimizer, config = torch.optim.Adam(trained, 3e-3), checkpoint.model.config
    for step in range(150):
        batch: dict[str, Batch] = data.collate(config, [walks[p] for p in range(8 * step, 8 * step + 8)])
        loss, _ = losses(batch, {"walk": 8})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.5 * before, (before, error())


def test_the_shipped_adapter_arrives_in_four_passes_where_the_sampler_does_in_33(monkeypatch):
    assert (SHIPPED / FAST_ADAPTER).stat().st_size < 2e6
    arrived = []
    monkeypatch.setattr("vae.VAE.decode", lambda vae, x: arrived.append(x) or torch.zeros(len(x), 3, 16, 16))
    for adapter, how in ((None, {}), (None, FAST), (SHIPPED / FAST_ADAPTER, FAST)):
        checkpoint = sample.load_model(SHIPPED, "cpu", torch.float32, adapter)
        sample.draw(checkpoint, ["Large right pneumothorax.", "Severe pulmonary edema."], [5, 6], **how)
    whole, plain, taught = arrived
    errors = [(x - whole).square().mean().item() for x in (plain, taught)]
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.25 * whole.var(), errors
