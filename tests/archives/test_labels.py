"""Everybody's labels under CheXpert's names: the MeSH terms of Open-i."""

import pytest

from archives.labels import mesh_labels


@pytest.mark.parametrize(
    ("terms", "labels"),
    [
        (["normal"], {"No Finding": 1}),
        (["Lung/hypoinflation/mild", "Catheters, Indwelling/right"], {"Support Devices": 1, "No Finding": 1}),
        (["Scoliosis/mild", "Calcified Granuloma/lung/left", "Surgical Instruments"], {}),
        (["Opacity/lung/base/left/round", "Nodule/pleura/left"], {"Lung Lesion": 1}),
        (["Opacity/left", "Density/thorax/left", "Opacity/ribs/left"], {"Lung Opacity": 1}),
        (["Markings/lung/interstitial/prominent", "Cicatrix/pleura/left"], {"Lung Opacity": 1, "Pleural Other": 1}),
        (["Pulmonary Congestion/mild", "Costophrenic Angle/left/blunted"], {"Edema": -1, "Pleural Effusion": -1}),
        (["Pulmonary Congestion", "Pulmonary Edema/interstitial"], {"Edema": 1}),
        (["Cardiomegaly/borderline", "Medical Devices"], {"Cardiomegaly": -1}),  # a heading is matched whole
        (["No Indexing"], {}),
        ([], {}),
    ],
)
def test_mesh_terms_become_observations(terms, labels):
    assert mesh_labels(terms) == labels
