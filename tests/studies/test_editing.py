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

    def edit(checkpoint, squares, prompts, seeds, strength, masks=None):
        return np.stack([pictures[each] for each in zip(seeds, prompts, strict=True)])

    monkeypatch.setattr(editing_command, "edit", edit)
    found = {kind: editing.measure(None, judge, 1, 3, kind, 128) for kind in KINDS}
    for scores in found.values():
        perfect, _, control = np.swapaxes(scores, 0, 1)  # each: removed and added
        assert (perfect[:, 0] == 1).all() and (perfect[:, 2] < editing.OWN).all()
        assert control.tolist() == [[0, 1, 0]] * 2
    table = editing.editing_table(found, 3)
    assert [row[0] for row in table.rows] == [*KINDS, "mean"]
    for row in table.rows:  # removed, added: edit, mask and control
        assert row[1] == row[4] == 1 and row[3] == row[6] == 0 and row[9] == 1 and row[11] == 0


def test_what_moves_elsewhere_is_counted_elsewhere(judge):
    before = np.full((1, 128, 128), 100, dtype=np.uint8)
    own = np.zeros((1, 128, 128), dtype=bool)
    own[:, :64] = True
    after = before.copy()
    after[own], after[~own] = 110, 103
    assert editing.compare(judge, before, after, own, "Edema", shown=True)[2] == 3
