"""The scores of edits, on a model that edits perfectly and on one that changes nothing."""

import numpy as np
import pytest

import edit as editing_command
from judges.trained_classifier import load_classifier
from phantoms.truth import streams
from phantoms.wording import write_report
from studies import editing
from studies.autoencoder import patients, with_and_without

KINDS = ("pleural effusion", "cardiomegaly")


@pytest.fixture(scope="module")
def judge():
    return load_classifier()


def test_a_perfect_edit_scores_all_and_the_control_nothing(judge, monkeypatch):
    pictures = {}  # prompt -> the picture it asks for
    for kind in KINDS:
        for index in range(60):
            if pair := patients(1, index, kind):
                for patient, image in zip(pair, with_and_without(1, index, kind, 128), strict=True):
                    pictures[index, write_report(patient, streams(1, index)[2])[1]] = image

    def edit(checkpoint, squares, prompts, seeds, strength, masks=None, **how):
        assert strength == 0.5 and how == {"steps": 7}
        return np.stack([pictures[each] for each in zip(seeds, prompts, strict=True)])

    monkeypatch.setattr(editing_command, "edit", edit)
    monkeypatch.setattr(editing, "KINDS", KINDS)
    found, sheet = editing.measure(None, judge, 1, 3, 128, 0.5, steps=7)
    assert list(found) == list(KINDS) and len(sheet) == 5 * len(KINDS)
    for kind in KINDS:
        for way in editing.WAYS:
            perfect, control = found[kind][way]["edit"], found[kind][way]["control"]
            assert perfect["as_asked"] == 1 and perfect["way"] == pytest.approx(1)
            assert perfect["outside"] < editing.OWN
            assert control == {"as_asked": 0, "others": 1, "outside": 0, "way": 0}
    table = editing.editing_table(found, 0.5)
    assert [row[0] for row in table.rows] == [*KINDS, "mean"]
    assert table.rows[0][1:4] == [1, table.rows[0][2], 0] and "strength 0.5" in table.note


def test_what_moves_elsewhere_is_counted_elsewhere(judge):
    before = np.full((1, 128, 128), 100, dtype=np.uint8)
    own = np.zeros((1, 128, 128), dtype=bool)
    own[:, :64] = True
    target, after = before.copy(), before.copy()
    target[own] = 140
    after[own], after[~own] = 110, 103
    found = editing.compare(judge, before, after, target, own, "Edema", shown=True)
    assert found["outside"] == 3 and found["way"] == pytest.approx(0.25)
