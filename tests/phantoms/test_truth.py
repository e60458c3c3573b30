"""The truth of phantoms: the fourteen labels, how often each is, and what is not combined."""

import numpy as np
from phantom_samples import SAMPLES

from common.observations import OBSERVATIONS
from phantoms import truth


def test_labels_are_the_fourteen_and_no_finding_follows_chexpert():
    for patient in SAMPLES:
        labels = truth.labels_of(patient.findings)
        assert tuple(labels) == OBSERVATIONS
        present = {name for name, value in labels.items() if value}
        assert present - {"No Finding"} == {finding.observation for finding in patient.findings}
        assert labels["No Finding"] == (present <= {"No Finding", "Support Devices"})


def test_every_observation_is_neither_rare_nor_common():
    labels = np.array([list(truth.labels_of(patient.findings).values()) for patient in SAMPLES]).mean(0)
    rate = dict(zip(OBSERVATIONS, labels, strict=True))
    assert 0.18 < rate["No Finding"] < 0.26
    assert 0.14 < rate["Support Devices"] < 0.22
    for name in truth.PATHOLOGIES:
        assert 0.08 < rate[name] < 0.18, name


def test_findings_that_would_hide_each_other_are_not_combined():
    for patient in SAMPLES:
        by_name = {f.observation: f for f in patient.findings}
        names = ("Consolidation", "Pneumonia", "Lung Opacity", "Lung Lesion")
        zones = [(f.side, truth.zone_of(f.place)) for f in map(by_name.get, names) if f and f.place]
        assert len(zones) == len(set(zones))
        gas, fluid = by_name.get("Pneumothorax"), by_name.get("Pleural Effusion")
        if gas and fluid and fluid.side in (gas.side, "bilateral"):
            assert fluid.severity == "small"
