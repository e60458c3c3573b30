"""The rule-based labeler: sentences read by a person, then phantom reports whose truth is known."""

import numpy as np
import pytest

from labeler import NEGATIVE, POSITIVE, UNCERTAIN, Label, label_report, label_reports
from phantom import OBSERVATIONS, labels_of, streams, truth, write_report

SHORT = {
    "EC": "Enlarged Cardiomediastinum",
    "CM": "Cardiomegaly",
    "LO": "Lung Opacity",
    "LL": "Lung Lesion",
    "ED": "Edema",
    "CO": "Consolidation",
    "PN": "Pneumonia",
    "AT": "Atelectasis",
    "PT": "Pneumothorax",
    "PE": "Pleural Effusion",
    "PO": "Pleural Other",
    "FX": "Fracture",
    "SD": "Support Devices",
    "NF": "No Finding",
}

# (report, all labels that are not blank). "+" positive, "-" negative, "?" uncertain, then the side: "PE+L".
SENTENCES = [
    # Positive, each of the fourteen, with sides.
    ("The mediastinum is widened.", "EC+"),
    ("Enlarged cardiomediastinal silhouette.", "EC+"),
    ("Moderate cardiomegaly.", "CM+"),
    ("The heart is mildly enlarged.", "CM+"),
    ("Enlargement of the cardiac silhouette, stable since the prior study.", "CM+"),
    ("Hazy opacity in the left mid lung.", "LO+L"),
    ("Patchy right basilar airspace disease.", "LO+R"),
    ("There is a 9 mm nodule in the lingula.", "LL+L"),
    ("Vague nodular opacity overlies the right fifth rib.", "LL+R"),
    ("Multiple bilateral lung masses, metastatic disease.", "LL+B"),
    ("Mild interstitial pulmonary edema.", "ED+"),
    ("Congestive heart failure.", "ED+"),
    ("Dense consolidation of the right middle lobe.", "CO+R"),
    ("Left lower lobe pneumonia.", "PN+L"),
    ("Bibasilar subsegmental atelectasis.", "AT+B"),
    ("There is complete collapse of the left lung.", "AT+L"),
    ("Large right hydropneumothorax.", "PT+R PE+R"),
    ("Left apical pneumothorax measuring 2.5 cm.", "PT+L"),
    ("Bilateral pleural effusions, right greater than left.", "PE+B"),
    ("Left and right effusions.", "PE+B"),
    ("Calcified pleural plaques along the left chest wall.", "PO+L"),
    ("Healing fractures of the right seventh and eighth ribs.", "FX+R"),
    ("Compression deformity of T8.", "FX+"),
    ("A right internal jugular catheter ends in the superior vena cava.", "SD+R NF+"),
    ("Left-sided pacemaker with leads in the right atrium and right ventricle.", "SD+L NF+"),
    # Normal statements.
    ("Heart size is normal.", "CM- NF+"),
    ("The lungs are clear.", "LO- NF+"),
    ("Heart size, mediastinal contour, and pulmonary vascularity are within normal limits.", "CM- EC- ED- NF+"),
    ("Normal cardiac silhouette. Pleural spaces are clear. Osseous structures intact.", "CM- PE- PT- FX- NF+"),
    ("No acute cardiopulmonary process.", "NF+"),
    # Negation: its cues, its reach and where it ends.
    ("No evidence of pneumothorax, pleural effusion or focal consolidation.", "PT- PE- CO- NF+"),
    ("Lungs are free of focal airspace disease.", "LO- NF+"),
    ("Negative for edema.", "ED- NF+"),
    ("There is no focal opacity to suggest pneumonia.", "LO- PN- NF+"),
    ("The heart is not significantly enlarged.", "CM- NF+"),
    ("The previously seen left effusion has resolved.", "PE- NF+"),
    ("The effusion has nearly completely resolved.", "PE+"),
    ("A pneumothorax is not seen. No nodules or masses.", "PT- LL- NF+"),
    ("Interval removal of the endotracheal tube.", "SD- NF+"),
    ("Pleural thickening and fracture are absent.", "PO- FX- NF+"),
    ("No pneumothorax, but there is a small left effusion.", "PT- PE+L"),
    ("No focal consolidation except for mild right atelectasis.", "CO- AT+R"),
    ("Cardiomegaly without pulmonary edema.", "CM+ ED-"),
    ("No change in the right pleural effusion.", "PE+R"),
    ("No mediastinal widening.", "EC- NF+"),
    # Uncertainty.
    ("Pneumonia cannot be excluded.", "PN?"),
    ("Cannot exclude a small left pneumothorax.", "PT?L"),
    ("Right basilar opacity may represent atelectasis.", "LO+R AT?R"),
    ("Left lower lobe opacity suspicious for pneumonia.", "LO+L PN?L"),
    ("Possible rib fracture on the right.", "FX?R"),
    ("Atelectasis versus consolidation in the left lower lobe.", "AT?L CO?L"),
    ("Possible mild edema, cardiomegaly.", "ED? CM+"),
    ("Likely right basilar atelectasis.", "AT+R"),  # asserted, as in CheXpert's published patterns
    ("Heart size is at the upper limits of normal.", "CM?"),
    ("Blunting of the left costophrenic angle.", "PE?L"),
    ("No definite pleural effusion.", "PE- NF+"),
    # Several findings with sides of their own.
    ("Consolidation in the right lower lobe with small left effusion.", "CO+R PE+L"),
    ("Pneumothorax on the right, effusion on the left.", "PT+R PE+L"),
    ("Atelectasis and effusion at the left base.", "AT+L PE+L"),
    ("Small right effusion and atelectasis.", "PE+R AT+R"),
    ("Opacities in the left base and in the right apex.", "LO+B"),
    # Aggregation over sentences, and words that only look like a finding.
    ("FINDINGS: No pneumothorax. IMPRESSION: 1. Tiny left pneumothorax. 2. No effusion.", "PT+L PE-"),
    ("Possible effusion. There is a large effusion on the right.", "PE+R"),
    ("Pericardial effusion. Mass effect on the trachea.", "NF+"),
    ("", ""),
]


def expected(shorthand: str) -> dict[str, Label]:
    values = {"+": POSITIVE, "-": NEGATIVE, "?": UNCERTAIN}
    sides = {"L": "left", "R": "right", "B": "bilateral", "": None}
    labels = dict.fromkeys(OBSERVATIONS, Label(None))
    for item in shorthand.split():
        labels[SHORT[item[:2]]] = Label(values[item[2]], sides[item[3:]])
    return labels


@pytest.mark.parametrize(("report", "shorthand"), SENTENCES)
def test_a_sentence_gets_exactly_these_labels(report, shorthand):
    wrong = {name: label for name, label in label_report(report).items() if label != expected(shorthand)[name]}
    assert not wrong


def test_the_array_has_the_columns_of_observations():
    labels = label_reports(["No effusion. Cannot exclude pneumonia. Cardiomegaly.", ""])
    columns = [OBSERVATIONS.index(name) for name in ("Pleural Effusion", "Pneumonia", "Cardiomegaly", "Fracture")]
    np.testing.assert_array_equal(labels[:, columns], [[0, -1, 1, np.nan], [np.nan] * 4])
    assert label_reports([]).shape == (0, 14)


def test_phantom_reports_and_impressions_say_what_was_drawn():
    """Positive or uncertain counts as said. Truth comes from the drawing, so this checks labeler and grammar both."""
    patients = [truth(1, index) for index in range(300)]
    reports = [write_report(patient, streams(1, index)[2]) for index, patient in enumerate(patients)]
    drawn = np.array([list(labels_of(patient.findings).values()) for patient in patients], dtype=bool)
    for texts in zip(*reports, strict=True):  # the whole reports, then the impressions alone
        labels = label_reports(texts)
        said = (labels == POSITIVE) | (labels == UNCERTAIN)
        f1 = 2 * (said & drawn).sum(0) / (said.sum(0) + drawn.sum(0))
        assert f1.mean() >= 0.98


def test_phantom_sides_are_read():
    asked = right = 0
    for index in range(300):
        patient = truth(1, index)
        labels = label_report(write_report(patient, streams(1, index)[2])[0])
        for finding in patient.findings:
            if finding.side and sum(f.observation == finding.observation for f in patient.findings) == 1:
                asked += 1
                right += labels[finding.observation].side == finding.side
    assert asked > 300 and right >= 0.98 * asked
