"""The rule-based labeler: sentences read by a person, then phantom reports whose truth is known."""

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from common.observations import OBSERVATIONS
from phantoms.truth import labels_of, streams, truth
from phantoms.wording import write_report
from reports.labeler import NEGATIVE, POSITIVE, UNCERTAIN, Label, label_report, label_reports, measure

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
    ("Borderline heart size.", "CM?"),
    ("Borderline cardiomegaly.", "CM?"),
    ("The heart is borderline enlarged.", "CM?"),
    ("Heart size is at the upper limits of normal.", "CM- NF+"),  # negative in CheXpert's published patterns
    ("Heart size is upper limits of normal to mildly enlarged.", "CM?"),
    ("Blunting of the left costophrenic angle.", "PE?L"),
    ("No definite pleural effusion.", "PE- NF+"),
    # Several findings with sides of their own.
    ("Consolidation in the right lower lobe with small left effusion.", "CO+R PE+L"),
    ("Pneumothorax on the right, effusion on the left.", "PT+R PE+L"),
    ("Atelectasis and effusion at the left base.", "AT+L PE+L"),
    ("Small right effusion and atelectasis.", "PE+R AT+R"),
    ("Opacities in the left base and in the right apex.", "LO+B"),
    # What CheXpert's phrase files count as an opacity, as a lesion, as a device, and what they do not.
    ("Scarring in the left apex.", "LO+L"),
    ("Chronic prominent interstitial markings.", "LO+"),
    ("Reticular opacities.", "LO+"),
    ("Interstitial lung disease.", "LO+"),
    ("Soft tissue density over the right chest.", "NF+"),
    ("Rounded opacity in the left lung.", "LL+L"),
    ("Nodular right lower lobe opacity.", "LL+R"),
    ("Cavitation of the right upper lobe.", "LL+R"),
    ("Calcified granuloma in the left lung.", ""),
    ("Calcified nodule in the right lung.", ""),
    ("Large right breast mass. Chest wall mass.", "NF+"),
    ("Multiple rib deformities.", ""),
    ("Numerous calcified mediastinal lymph nodes and large calcifications.", ""),
    ("Increase in heart size.", "CM+"),
    ("Prominence of the central vasculature.", "ED?"),
    ("Bilateral costophrenic blunting.", "PE?B"),
    ("Biapical pleural-parenchymal scarring.", "PO+B"),
    ("Right apical pleural thickening/scarring.", "PO+R"),
    ("Left apical pleural capping.", "PO+L"),
    ("Fissural thickening.", "PO+"),
    ("Anterior cervical fusion. Left shoulder arthroplasty.", "SD+L NF+"),
    ("Left chest port with tip in the SVC.", "SD+L NF+"),
    ("A tip projects over the cavoatrial junction.", "SD+ NF+"),
    ("Portacatheter and pulse generator unchanged. Closure device.", "SD+ NF+"),
    ("Sternotomy wires and surgical clips. Coronary stent.", "NF+"),
    # Findings outside of the fourteen undo "No Finding", unless they are denied.
    ("The lungs are clear. Mild scoliosis.", "LO-"),
    ("Hyperinflated lungs. Tortuous aorta. Hiatal hernia.", ""),
    ("Degenerative changes of the spine.", ""),
    ("Elevation of the left hemidiaphragm. Old granulomatous disease.", ""),
    ("No hyperinflation or lymphadenopathy.", "NF+"),
    # Sentences that claim nothing: advice, limits, history.
    ("Evaluation for pneumothorax is limited.", "NF+"),
    ("CT is recommended to exclude an underlying mass.", "NF+"),
    ("CT could be performed to identify a small nodule.", "NF+"),
    ("If there is concern for fracture, consider rib series.", "NF+"),
    ("If clinical concern for a fracture persists, consider rib series.", "NF+"),
    ("Please note that fractures may not be demonstrated.", "NF+"),
    ("History of pneumonia.", "NF+"),
    ("Evaluation of the chest shows a left effusion.", "PE+L"),
    # Cues that reach over a list, and cues that look back.
    ("Right opacity, compatible with pneumonia in the appropriate clinical setting.", "LO+R PN?R"),
    ("The differential diagnosis includes infection, edema.", "PN? ED?"),
    ("Nodule on the right, not identified on the lateral view.", "LL+R"),
    ("The left effusion is not well seen.", "PE+L"),
    ("Nodules are smaller and not definitely seen.", "LL- NF+"),
    ("No effusion seen, nodule in the left lung.", "PE- LL+L"),
    ("Does not appear to be a pneumothorax. The vasculature is not engorged.", "PT- ED- NF+"),
    ("Vascular congestion appears within normal limits.", "ED- NF+"),
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


def open_i(folder: Path, *reports: tuple[int, str, list[str]]) -> Path:
    """An archive as Open-i's: (number, impression, MeSH terms) each."""
    path = folder / "NLMCXR_reports.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for number, impression, terms in reports:
            mesh = "".join(f"<major>{term}</major>" for term in terms)
            xml = f"""<eCitation><uId id="CXR{number}"/><Abstract><AbstractText Label="IMPRESSION">{impression}
                </AbstractText></Abstract><MeSH>{mesh}</MeSH></eCitation>""".encode()
            member = tarfile.TarInfo(f"{number}.xml")
            member.size = len(xml)
            archive.addfile(member, BytesIO(xml))
    return path


def test_measure_counts_the_even_reports_that_have_terms(tmp_path):
    path = open_i(
        tmp_path,
        (2, "Left effusion.", ["Pleural Effusion/left"]),
        (4, "Possible right effusion.", ["Pleural Effusion/left"]),  # uncertain, and the wrong side
        (6, "Right effusion.", ["normal"]),
        (8, "No effusion. Lungs clear.", ["normal"]),
        (10, "Effusion. Fracture.", ["No Indexing"]),
        (3, "Rib fracture.", ["Fractures, Bone/ribs"]),
    )
    title, columns, *lines = measure(path).splitlines()
    table = {line[:27].strip(): line[27:].split() for line in lines}
    assert title.split() == ["4", "even", "reports", "1", "odd", "reports"]
    assert columns.split() == 2 * ["MeSH", "labeler", "both", "F1"]
    assert table["Pleural Effusion"] == ["2", "3", "2", "0.800", "0", "0", "0", "0.000"]
    assert table["No Finding"] == ["2", "1", "1", "0.667", "0", "0", "0", "0.000"]
    assert table["Fracture"] == ["0", "0", "0", "0.000", "1", "1", "1", "1.000"]
    assert lines[-1].split()[-2:] == ["0.733", "1.000"]


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["Small left effusion."], "Pleural Effusion            positive   left", 0),
        (["two", "words"], "error: text: give one report in quotes", 2),
        ([" "], "error: text: give one report in quotes", 2),
        (["measure"], "error: text: give one report in quotes, or measure and NLMCXR_reports.tgz", 2),
        (["measure", "absent.tgz"], "error: absent.tgz: no such file", 2),
    ],
)
def test_the_command(arguments, said, code):
    command = [sys.executable, "-m", "reports.labeler", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ran.returncode == code and said in ran.stdout + ran.stderr and "Traceback" not in ran.stderr
