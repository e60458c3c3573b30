"""Words and places: which attention a map holds, and what share of it lies where."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import attention as core
from common.files import SHIPPED
from phantoms.dataset import phantom
from phantoms.truth import KINDS, truth
from sample import load_model
from studies import attention


@pytest.fixture(scope="module")
def shipped():
    return load_model(SHIPPED, "cpu", torch.float32)


PROMPT, LONGER = [17, 230, 45, 99, 8], [120, 5, 77, 301, 64, 18, 222, 90]


@pytest.fixture
def used(monkeypatch):
    """(values, mixed, mask) of every call of `attend` by the decoder."""
    calls, attend = [], core.attend

    def spy(q, k, v, mask):
        mixed = attend(q, k, v, mask)
        if mask is not None:  # the ViT's has none
            calls.append((v, mixed, mask))
        return mixed

    monkeypatch.setattr(core, "attend", spy)
    return calls


def check(maps, used):
    """Each layer's weights, times its values, are what attention gave."""
    assert len(maps) == len(used) == 3
    for weights, (values, mixed, mask) in zip(maps, used, strict=True):
        torch.testing.assert_close(weights @ values, mixed, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        assert (weights.masked_select(~mask.expand_as(weights)) == 0).all()
        assert (~mask).any()


@torch.no_grad()
def test_drawing_maps_are_the_weights_that_were_used_and_change_nothing(micro, used):
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 16, 4, 3, generator=generator), torch.tensor([0.8, 0.3])
    with attention.kept_maps() as maps:
        v = micro.model(x, t, [PROMPT, LONGER])
    S = len(LONGER) + 2 + 2 + 12
    assert maps[0].shape == (2, 4, S, S)
    check(maps, used)
    assert torch.equal(v, micro.model(x, t, [PROMPT, LONGER])) and len(maps) == 3
    prompt = slice(0, len(LONGER) + 2)
    assert all((each[..., prompt, prompt.stop :] == 0).all() for each in maps), "the prompt looks at the block"
    assert all((each[..., prompt.stop :, :1] > 0).all() for each in maps), "the block does not look at the prompt"


@torch.no_grad()
def test_reading_maps_are_the_weights_that_were_used(micro, used):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    text = torch.tensor([[0, *PROMPT, 1, 0, *LONGER, 1]] * 2)
    with attention.kept_maps() as maps:
        logits = micro.model.read_forward(pixels, text)
    S = 18 + text.shape[1]
    assert maps[0].shape == (2, 4, S, S) and logits.shape == (2, text.shape[1], 400)
    check(maps, used)
    assert torch.equal(logits, micro.model.read_forward(pixels, text))


def test_attention_weights_by_hand():
    """Two keys, one as long as the query and one across it, head_dim 4: softmax of (1 / 2, 0)."""
    q = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 1, 4)
    k = torch.eye(2, 4).view(1, 1, 2, 4)
    e = torch.tensor(0.5).exp()
    weights = attention.attention_weights(q, k)
    torch.testing.assert_close(weights.flatten(), torch.stack([e, torch.tensor(1.0)]) / (e + 1))
    assert attention.attention_weights(q, k, torch.tensor([[False, True]])).flatten().tolist() == [0, 1]


def test_pieces_are_merged_into_words(micro):
    text = "FINDINGS: Large right pneumothorax."
    ids, words = attention.words_of(micro, text)
    assert [word for word, _ in words] == text.split()
    assert sorted(i for _, pieces in words for i in pieces) == list(range(len(ids)))
    for word, pieces in words:
        assert micro.decode([ids[i] for i in pieces]).strip() == word


def test_a_map_is_taken_where_the_word_is_predicted(micro, monkeypatch):
    """A model whose attention on patch p, from the token at place r, is 1000 r + p: the map tells r."""
    config, question = micro.model.config, [9, 9, 9]
    side, layers, heads = 4, config.num_layers, config.num_heads

    def numbered(q, k, mask):
        S = q.shape[2]
        return (1000.0 * torch.arange(S)[:, None] + torch.arange(S)[None]).expand(1, heads, S, S)

    monkeypatch.setattr(attention, "attention_weights", numbered)
    monkeypatch.setattr(attention, "question_of", lambda *args: question)
    image = Image.fromarray(np.zeros((64, 64), dtype=np.uint8))
    words = attention.report_maps(micro, image, "Large right pneumothorax.")
    _, pieces = attention.words_of(micro, "Large right pneumothorax.")
    for (_, maps), (_, places) in zip(words, pieces, strict=True):
        own_place = side**2 + 2 + len(question) + 3 + np.mean(places)  # BOI patches EOI BOS question EOS BOS, then ids
        expected = 1000 * (own_place - 1) + np.arange(1, 1 + side**2).reshape(side, side)
        np.testing.assert_allclose(maps, np.broadcast_to(expected, (layers, side, side)), rtol=1e-6)


def test_every_kind_of_finding_is_named_in_its_phantoms_reports():
    """Every report names what it shows, and one without the finding does not name it as present."""
    for kind in KINDS:
        index = 0
        for _ in range(4):
            while kind not in [finding.kind for finding in truth(1, index).findings]:
                index += 1
            patient = phantom(1, index, 64)
            for text in (patient.report, patient.impression):
                assert any(attention.names(kind, word) for word in text.split()), (kind, text)
            index += 1


def test_inside_is_one_for_a_map_in_the_place_and_the_area_for_an_even_one():
    finding = np.zeros((4, 4))
    finding[1, 2], finding[1, 3] = 1.0, 0.5
    spot = np.zeros((4, 4))
    spot[1, 2] = 0.3
    assert attention.inside(spot, finding) == 1
    spot[3, 3] = 0.9  # beside it, three times as much
    assert attention.inside(spot, finding) == pytest.approx(0.25)
    assert attention.inside(np.ones((4, 4)), finding) == pytest.approx(1.5 / 16)


def test_the_place_of_a_finding_is_on_its_side():
    """The patient's left is on the right of the picture."""
    index = 0
    for side, half in (("left", slice(4, 8)), ("right", slice(0, 4))):
        while not any(f.kind == "pneumothorax" and f.side == side for f in truth(1, index).findings):
            index += 1
        finding = attention.place(1, index, "pneumothorax", 8)
        assert finding[:, half].sum() > 0.95 * finding.sum() > 0
        index += 1


def test_a_map_over_a_film_leaves_the_dark_places_as_they_are():
    film, word_map = np.full((64, 64), 100, dtype=np.uint8), np.zeros((4, 4), dtype=np.float32)
    word_map[0, 0] = 0.2
    shown = attention.over(film, word_map)
    assert shown.shape == (64, 64, 3) and (shown[40:, 40:] == 100).all()
    assert shown[2, 2, 0] > 150 > shown[2, 2, 2]
    assert (attention.over(film, np.full((4, 4), 0.1)) == 100).all(), "an even map says nothing"


@pytest.mark.slow
def test_the_shipped_model_looks_at_what_it_names(shipped):
    """docs/results.md, 32 phantoms: masses 4.6, consolidations 2.8 times as much inside as in others' places."""
    for kind in ("mass", "consolidation", "pneumonia"):
        scores = attention.shares(shipped, kind, 8)
        assert scores["inside"] > 1.5 * scores["others"] > 0


@pytest.mark.slow
def test_the_command_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(attention, "KINDS", ("mass",))
    monkeypatch.setattr("sys.argv", ["attention", "--n", "2"])
    attention.main()
    printed = capsys.readouterr().out
    assert re.search(r"^mass +0\.\d{3}", printed, re.M) and "not a medical device" in printed
    assert "no explanation" in printed
