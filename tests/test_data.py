"""Examples belong to their position, a run's share to no process, and what is packed is what is learnt."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
from archives.records import Problems, Record, Records
from common.distributed import Team
from common.errors import UserError
from micro import micro_config
from phantoms.dataset import Phantoms
from reports.questions import DEFAULT_QUESTION, NAMES_QUESTION, SHORT_QUESTION, question_for
from training.batches import say_what_is_cut
from vae import VAE
from vit import VisionTransformer


def test_pixels_are_normalised_per_tower():
    images = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    config = micro_config()
    assert VAE.preprocess(images)[0, 0, 0].tolist() == [-1, 1]
    expected = [(0 - 0.555895) / 0.336385, (1 - 0.555895) / 0.336385]  # DESIGN: SigLIP's grey values
    assert VisionTransformer(config.vit).preprocess(images)[0, 2, 0].tolist() == pytest.approx(expected)
    assert VAE.postprocess(VAE.preprocess(images)).tolist() == images.tolist()


def test_a_broken_image_is_said_and_another_takes_its_place(micro, monkeypatch, capsys):
    stream = examples(micro, "2")
    image = Phantoms.image

    def some_broken(self, index, broken=(3,)):
        if index in broken:
            raise UserError(f"{index}.png: broken image")
        return image(self, index)

    monkeypatch.setattr(Phantoms, "image", some_broken)
    indices = [stream[position]["index"] for position in range(24)]
    assert 3 not in indices and set(indices) == set(range(12)) - {3}
    assert capsys.readouterr().err == "skipped: 3.png: broken image\n"
    monkeypatch.setattr(Phantoms, "image", lambda self, index: some_broken(self, index, range(12)))
    with pytest.raises(UserError, match="11 broken images, the last: "):
        stream[0]


def test_only_what_is_read_is_varied(micro):
    for stage in ("vae", "vit", "1", "2"):
        plain, varied = (
            data.Examples(Phantoms(12), stage, 64, 5, micro.encode, micro_config(), 8, augmented=augmented)[0]
            for augmented in (False, True)
        )
        assert np.array_equal(plain["image"], varied["image"]) == (stage in ("vae", "2"))


def examples(micro, stage, size=64, mix=(0, 1)):
    source, encode = Phantoms(12), micro.encode
    return data.Examples(source, stage, size, 5, encode, micro_config(), batch=8, mix=mix)


def same(first, second):
    assert first.prompts == second.prompts
    for key, value in first.__dict__.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(second, key)), key


def run(micro, stage, rank=0, processes=1, start=0, steps=5, micro_batch=4, workers=0, mix=(0, 1)):
    stream = examples(micro, stage, mix=mix)
    share = data.share(8, micro_batch, rank, processes, start, steps, stream.by_length)
    return list(data.batches(stream, share, workers))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "vit", "1", "2"])
def test_batches_depend_on_their_position_only(micro, stage):
    straight, continued = run(micro, stage), run(micro, stage, start=3, workers=2)
    assert len(straight) == 10 and len(continued) == 4  # two micro-batches of 4 a step
    for first, second in zip(straight[6:], continued, strict=True):
        same(*first.values(), *second.values())


def test_processes_share_a_step_without_overlap(micro):
    alone = [batch["draw"].index for batch in run(micro, "2", micro_batch=2)]
    team = [[batch["draw"].index for batch in run(micro, "2", rank, 2, micro_batch=2)] for rank in (0, 1)]
    interleaved = [index for pair in zip(*team, strict=True) for index in pair]
    assert torch.equal(torch.cat(alone), torch.cat(interleaved))


def test_a_mix_has_its_ratio_in_every_micro_batch(micro):
    for batch in run(micro, "2", mix=(1, 3)):
        assert {kind: len(part.index) for kind, part in batch.items()} == {"read": 1, "draw": 3}
        assert batch["read"].targets is not None and batch["draw"].prompts is not None
    assert [list(batch) for batch in run(micro, "2", mix=(0, 1))] == [["draw"]] * 10


@pytest.mark.parametrize("stage", ["1", "2"])
def test_the_length_of_an_example_is_known_before_it_is_made(micro, stage):
    stream = examples(micro, stage)
    stream.config.context_length = 512  # nothing is cut
    for position in range(24):
        text = stream[position].get("answer", stream[position].get("prompt"))
        assert stream.length(position) == len(text or ())


def test_a_text_longer_than_the_context_is_cut_and_counted(micro, tmp_path, capsys):
    source = Records(tmp_path, "own", [Record("a.png", "Clear lungs. " * n, "") for n in (1, 3, 100)], Problems(), {})
    assert [len(micro.encode(source.text(i)[0])) > 60 for i in range(3)] == [False, False, True]
    config = SimpleNamespace(context_length=62)  # with BOS and EOS
    given = SimpleNamespace(stage="2", source=source, config=config, encode=micro.encode)
    say_what_is_cut(given, Team(0, 1, torch.device("cpu")))
    assert capsys.readouterr().out.startswith("1 of 3 reports are longer than the 62 tokens")
    stream, room = examples(micro, "2"), micro_config().context_length - 2
    assert stream.fitting(list(range(100))) == list(range(room))
    assert stream.fitting(list(range(100)), beside=10) == list(range(room - 10))
    assert stream.fitting([1, 2]) == [1, 2]


@pytest.mark.parametrize("mix", [(0, 1), (1, 3)])
def test_texts_of_like_length_share_a_micro_batch(micro, mix):
    stream = examples(micro, "2", mix=mix)
    ordered = stream.by_length(range(8, 16))
    assert sorted(ordered) == list(range(8, 16))
    for kind in range(sum(mix)):
        assert {position % sum(mix) for position in ordered[kind :: sum(mix)]} == {kind}  # the mix's ratio stays
        lengths = [stream.length(position) for position in ordered[kind :: sum(mix)]]
        assert lengths == sorted(lengths)


def test_each_epoch_visits_every_image_once_in_its_own_order(micro):
    visits = [examples(micro, "2").index(position) for position in range(24)]
    assert sorted(visits[:12]) == sorted(visits[12:]) == list(range(12))
    assert visits[:12] != visits[12:]


def test_rare_films_come_up_as_often_as_they_should_and_none_is_left_out(micro):
    repeats = np.array([1, 1, 1, 2.25, 1, 1, 4.5, 1, 1, 1, 1, 1.5])
    stream = data.Examples(Phantoms(12), "2", 64, 5, micro.encode, micro_config(), 8, repeats=repeats)
    count = math.ceil(repeats.sum())
    epochs = np.array(
        [np.bincount([stream.index(count * e + p) for p in range(count)], minlength=12) for e in range(40)]
    )
    exact = repeats * count / repeats.sum()
    assert (np.abs(epochs - exact) < 1).all()
    assert np.abs(epochs.mean(axis=0) - exact).max() < 0.25  # three standard deviations of a mean of 40


def test_rare_observations_come_up_as_often_as_the_commonest_up_to_a_limit():
    texts = ["Cardiomegaly."] * 4 + ["Cardiomegaly. Pneumothorax."] + ["The lungs are clear."] * 15
    records = [Record(f"{i}.png", text, "") for i, text in enumerate(texts)]
    source = Records(Path(), "ours", records, Problems(), {})
    assert data.repeat_factors(source, 100) == pytest.approx([15 / 5] * 4 + [15] + [1] * 15)
    assert data.repeat_factors(source, 10) == pytest.approx([15 / 5] * 4 + [10] + [1] * 15)


def test_a_tenth_of_the_prompts_is_dropped(micro, monkeypatch):
    monkeypatch.setattr(Phantoms, "image", lambda self, index: np.zeros((64, 64), np.uint8))
    stream = examples(micro, "2")
    dropped = np.mean([stream[position]["prompt"] is None for position in range(2000)])
    assert dropped == pytest.approx(0.1, abs=0.02)  # three standard deviations


def test_targets_are_the_answer_and_its_end(micro):
    config = micro_config()
    text_ids, targets = data.pack_answers([[10, 11], [12]], [[20, 21, 22], [23]], config)
    assert text_ids.tolist() == [[0, 10, 11, 1, 0, 20, 21, 22, 1], [0, 12, 1, 0, 23, 1, 1, 1, 1]]
    n = data.IGNORE
    assert targets.tolist() == [[n, n, n, n, 20, 21, 22, 1, n], [n, n, n, 23, 1, n, n, n, n]]


def test_a_text_alone_is_predicted_from_its_start(micro):
    text_ids, targets = data.pack_answers([None, None], [[10, 11, 12], [13]], micro_config())
    n = data.IGNORE
    assert text_ids.tolist() == [[0, 10, 11, 12, 1], [0, 13, 1, 1, 1]]
    assert targets.tolist() == [[10, 11, 12, 1, n], [13, 1, n, n, n]]
    for batch in run(micro, "1", mix=(1, 3)):
        assert {kind: len(part.index) for kind, part in batch.items()} == {"recite": 1, "read": 3}


def test_crops_reach_the_border_as_often_as_the_middle(micro, monkeypatch):
    """The first column is in a quarter of the crops, as is the last; of crops from anywhere inside, in one of 129."""
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    monkeypatch.setattr(data, "to_square", lambda picture, size: np.asarray(picture))
    seen = np.zeros((256, 256))
    for values in (columns, rows):  # what a crop shows is where it was
        monkeypatch.setattr(Phantoms, "image", lambda self, index, values=values: values.astype(np.uint8))
        stream = examples(micro, "vae", size=128)
        crops = [image for image in (stream[position]["image"] for position in range(400)) if len(image) == 128]
        for crop in crops:
            first = int(crop.min())
            seen[:, first : first + 128] += 1 / len(crops)
    share = seen[0] / 2
    assert [share[0], share[127], share[-1]] == pytest.approx([0.25, 0.75, 0.25], abs=0.06)


def test_what_the_vit_sees_is_squared_as_its_weights_know_it_and_what_is_drawn_is_not():
    config = micro_config()
    config.vit.padding, config.vit.scaling = 255, "shrink"
    film = np.full((20, 40), 128, dtype=np.uint8)
    source = Phantoms(4)
    source.image = lambda index: film
    squares = {}
    for stage in ("1", "2"):
        examples = data.Examples(source, stage, 64, 0, lambda text: [5], config, batch=4)
        squares[stage] = examples[0]["image"]
    assert ((squares["1"] == 128).sum(), (squares["1"] == 255).sum()) == (20 * 40, 64 * 64 - 20 * 40)
    assert ((squares["2"] == 128).sum(), (squares["2"] == 0).sum()) == (32 * 64, 32 * 64)


class Rows(Phantoms):
    """Phantoms whose rows bring what the rows of a data set may bring."""

    def __init__(self, count, **extra):
        super().__init__(count)
        self.brought = extra

    def extra(self, index):
        return self.brought

    def image(self, index):
        return np.zeros((64, 64), np.uint8)

    def text(self, index):
        return "FINDINGS: Clear. IMPRESSION: Normal.", "Normal."


def decoded(micro, source, stage, count=60, wording="plain", **more):
    """What `count` examples say: their question, answer or prompt."""
    config = replace(micro_config(), wording=wording, context_length=512)  # nothing is cut
    stream = data.Examples(source, stage, 64, 0, micro.encode, config, 4, prompt_dropout=0.0, **more)
    rows = [stream[position] for position in range(count)]
    return [{name: micro.decode(row[name]) for name in ("question", "answer", "prompt") if name in row} for row in rows]


def test_full_size_is_asked_in_ten_wordings_and_the_tiny_recipe_keeps_its_own(micro):
    full = decoded(micro, Rows(8), "1", wording="published")
    assert {row["question"] for row in full} == {question_for("FINDINGS: IMPRESSION:", i) for i in range(10)}
    assert {row["answer"] for row in full} == {"FINDINGS: Clear. IMPRESSION: Normal."}  # always the whole report
    tiny = decoded(micro, Rows(8), "1")
    asked = [row["question"] for row in tiny]
    assert asked.count(SHORT_QUESTION) == 2 * asked.count(DEFAULT_QUESTION) == 40


def test_names_come_first_and_are_asked_for_alone_in_a_step_of_three(micro):
    rows = decoded(micro, Rows(8), "1", count=12, observations="first")  # steps of 4
    names, report = "OBSERVATIONS: No Finding.", "FINDINGS: Clear. IMPRESSION: Normal."
    assert rows[:4] == [{"question": DEFAULT_QUESTION, "answer": f"{names} {report}"}] * 4
    assert rows[4:8] == [{"question": NAMES_QUESTION, "answer": names}] * 4
    assert rows[8:] == [{"question": SHORT_QUESTION, "answer": "Normal."}] * 4
    assert decoded(micro, Rows(8), "1", count=12, observations="only") == rows[4:8] * 3
    with pytest.raises(UserError, match=r"example \d+: its question leaves no room"):
        decoded(micro, Rows(8, question="What is seen? " * micro.model.config.context_length), "1", count=1)
    own = decoded(micro, Rows(8, question="What is seen?"), "1", count=12, observations="first")
    assert own == [{"question": "What is seen?", "answer": report}] * 12


def test_a_rows_own_question_is_asked_and_its_captions_are_drawn_from(micro):
    for wording in ("plain", "published"):
        rows = decoded(micro, Rows(8, question="What is seen?"), "1", 9, wording)
        assert {row["question"] for row in rows} == {"What is seen?"}
    rows = decoded(micro, Rows(8, captions=["Edema.", "Mild edema.", "Some edema."]), "2")
    assert {row["prompt"] for row in rows} == {"Edema.", "Mild edema.", "Some edema."}
    rows = decoded(micro, Rows(8), "2")
    assert {row["prompt"] for row in rows} == {"Normal.", "FINDINGS: Clear. IMPRESSION: Normal."}
