"""What the ViT is asked to see: what a report affirms, and what enough films share."""

import numpy as np
import pytest

from archives.records import Problems, Record, Records
from phantoms.dataset import Phantoms
from reports.phrases import common_targets, phrases, visible


def test_phrases_are_runs_of_words():
    assert phrases(["small", "left", "effusion"]) == {
        *("small", "left", "effusion", "small left", "left effusion", "small left effusion")
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
    sentences = Phantoms(3).text(1)[1].lower().split(".")
    assert visible(Phantoms(3), 1).keys() == set().union(*(phrases(sentence.split()) for sentence in sentences))


@pytest.mark.parametrize(
    "report",
    [
        "No pneumothorax; enlarged heart",
        "No pneumothorax.\nEnlarged heart.",
        "No pneumothorax\nEnlarged heart",
        "Pneumothorax? No. Enlarged heart.",
        "1. No pneumothorax 2. Enlarged heart",
        "Pneumothorax isn't seen. Enlarged heart!",
        "- Pneumothorax: absent\n- Enlarged heart",
    ],
)
def test_a_denial_denies_its_own_sentence_alone(tmp_path, report):
    seen = visible(Records(tmp_path, "own", [Record("a.png", report, "")], Problems(), {}), 0)
    assert "enlarged heart" in seen and "label: Cardiomegaly" in seen
    assert not any("pneumothorax" in name.lower() for name in seen)
