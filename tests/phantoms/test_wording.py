"""The reports of phantoms say what is drawn, and nothing else."""

import numpy as np
from phantom_samples import NORMAL, SAMPLES, sampled

from phantoms import drawing, truth
from phantoms.wording import write_report


def test_reports_name_every_finding_in_both_sections_with_side_place_and_severity():
    for index, patient in enumerate(SAMPLES):
        report, impression = write_report(patient, truth.streams(7, index)[2])
        body, ending = report.removeprefix("FINDINGS: ").split(" IMPRESSION: ")
        assert ending == impression
        for finding in patient.findings:
            noun = {
                "Enlarged Cardiomediastinum": "mediastin",
                "Cardiomegaly": "card|heart",
                "Lung Opacity": "opacity|haziness",
                "Pleural Effusion": "effusion",
            }.get(finding.observation, finding.kind.split()[-1])
            nouns = {"catheter": "catheter|line", "fracture": "fractures", "thickening": "pleural thickening"}
            wanted = nouns.get(noun, noun).split("|")
            place = (finding.place or "").replace("lingula", "lingula").rstrip("a")  # lingula, lingular
            for text in (body.lower(), impression.lower()):
                sentences = [part for part in text.split(".") if any(word in part for word in wanted)]
                details = [finding.side or "", place, finding.severity or ""]
                assert any(all(d in part for d in details) for part in sentences), (finding, text)


def test_reports_never_affirm_what_is_absent():
    words = {
        "Cardiomegaly": ("cardiomegaly", "enlarge"),
        "Enlarged Cardiomediastinum": ("widen",),
        "Lung Opacity": ("opacity", "haz"),
        "Lung Lesion": ("nodule", "mass"),
        "Edema": ("edema", "congestion"),
        "Consolidation": ("consolidation",),
        "Pneumonia": ("pneumonia",),
        "Atelectasis": ("atelectasis",),
        "Pneumothorax": ("pneumothorax",),
        "Pleural Effusion": ("effusion",),
        "Pleural Other": ("thickening",),
        "Fracture": ("fracture",),
        "Support Devices": ("tube", "central", "left central", "right central", "pacemaker"),
    }
    for index, patient in enumerate(SAMPLES):
        report, _ = write_report(patient, truth.streams(7, index)[2])
        labels = truth.labels_of(patient.findings)
        for part in report.replace("IMPRESSION:", "").lower().split("."):
            mentioned = {name for name, stems in words.items() if any(f" {stem}" in f" {part}" for stem in stems)}
            denied = "no " in part
            for name in mentioned:
                assert labels[name] == (not denied), (name, report)
        if "lungs are clear" in report.lower():
            assert not any(labels[name] for name in drawing.AIRSPACE)


def test_reports_keep_to_their_word_budget():
    for index, patient in enumerate(SAMPLES):
        report, impression = write_report(patient, truth.streams(7, index)[2])
        assert len(report.split()) <= 67  # 65 and the two headings
        assert 15 <= len(report.split(" IMPRESSION: ")[0].split()) - 1 <= 45
        assert 2 <= len(impression.split()) <= 24


def test_the_grammar_can_say_the_standard_sentences():
    heart, fluid = (
        sampled("Cardiomegaly", severity="moderate"),
        sampled("Pleural Effusion", side="left", severity="small"),
    )
    patient = truth.Patient("PA", heart.amount, (heart, fluid))
    said = {write_report(patient, np.random.default_rng(k))[1] for k in range(100)}
    assert "Moderate cardiomegaly. Small left pleural effusion." in said
    said = {write_report(NORMAL, np.random.default_rng(k))[1] for k in range(50)}
    assert "No acute cardiopulmonary process." in said
