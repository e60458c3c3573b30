"""What the ViT is asked to see: what a report affirms, and what enough films share."""

import numpy as np

from archives.records import Problems, Record, Records
from phantoms.dataset import Phantoms
from reports.phrases import common_targets, phrases, visible


def test_phrases_are_runs_of_words_inside_a_sentence():
    text = "Small left effusion. No edema."
    assert phrases(text) == {
        *("small", "left", "effusion", "small left", "left effusion", "small left effusion", "no", "edema", "no edema")
    }


def test_what_only_some_examples_share_is_learnt():
    found = [{"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1}, {"a": 1, "b": np.nan}, {"a": 1, "d": 1}]
    assert common_targets(found, least=2) == ["b"]  # a says nothing of an example, c and d are rare


def test_a_real_report_is_seen_by_labels_codes_and_what_it_affirms(tmp_path):
    report = "Small left pleural effusion. No pneumothorax. Possible pneumonia."
    mesh = ["Pleural Effusion/left/small"]
    records = Records(tmp_path, "own", [Record("a.png", report, "", extra={"mesh": mesh})], Problems(), {})
    seen = visible(records, 0)
    assert {"small left pleural", "label: Pleural Effusion", "label: Pleural Effusion, left"} < set(seen)
    assert {"mesh: pleural effusion", "mesh: pleural effusion/left", "mesh: pleural effusion/left/small"} < set(seen)
    assert np.isnan(seen["label: Pneumonia"]) and "label: Pleural Effusion, right" not in seen
    assert not any("pneumothorax" in name.lower() for name in seen)
    assert visible(Phantoms(3), 1).keys() == phrases(Phantoms(3).text(1)[1])
