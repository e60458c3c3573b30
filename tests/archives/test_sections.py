"""The sections of a report, in all the ways that radiologists write them."""

import time

import pytest
from archive_files import MIMIC_REPORT

from archives.sections import split_report


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        (MIMIC_REPORT, "Small left pleural effusion. No pneumothorax. The heart is normal.", "Small left effusion."),
        (" FINDING: Clear.\n IMPERSSION: Normal.", "Clear.", "Normal."),
        (" FINIDNGS: Clear.\n CONCUSION: Normal.", "Clear.", "Normal."),
        (" FINDINGS AND IMPRESSION:  Clear.", "", "Clear."),
        (" FINDINGS/IMPRESSION: Clear.", "", "Clear."),
        (" IMPRESSION AND RECOMMENDATION: Clear.\n RECOMMENDATION(S): CT.", "", "Clear."),
        (" SUMMARY: Clear.", "", "Clear."),
        (" CHEST, PA AND LATERAL:  Clear.\n\n IMPRESSION: Normal.", "Clear.", "Normal."),
        (" CHEST, PA LATERAL:\n\n INDICATION: Cough.\n FINDINGS: Clear.", "Clear.", ""),
        (" CHEST, TWO VIEWS: Title.\n FINDINGS: Clear.", "Clear.", ""),
        (" TYPE OF EXAMINATION: Chest, AP.\n IMPRESSION: Normal.", "", "Normal."),
        (" FINDINGS: Clear.\n IMPRESSION: One.\n FINDINGS: Wide.\n IMPRESSION: Two.", "Clear. Wide.", "One. Two."),
        (" FINDINGS: Clear.\n IMPRESSION: Normal.\n ADDENDUM: There is an effusion.", "Clear.", "Normal."),
        (" WET READ: ___ 9:21 PM\n  Pneumonia.\n" + "_" * 78 + "\n FINAL REPORT\n FINDINGS: Clear.", "Clear.", ""),
        (" WET READ: 9:21 PM\n  Pneumonia.\n", "", ""),
        (" ADDENDUM:  Discussed.\n\n With Dr. ___.\n", "", ""),
        (" FINAL REPORT\n CHEST RADIOGRAPH\n\n Old words.\n\n No acute\n process.\n", "", "No acute process."),
        (" COMPARISON:  None.\n \n Clear lungs.\n \n No effusion.\n", "", "Clear lungs. No effusion."),
        (" INDICATION: Cough.\n TECHNIQUE: PA.\n", "", ""),
        (" FINDINGS: Seen at\n 10:30 AM: no change.\n IMPRESSION: Normal.", "Seen at 10:30 AM: no change.", "Normal."),
        ("FINDINGS: Clear lungs. IMPRESSION: Normal.", "Clear lungs.", "Normal."),
        ("INDICATION: Cough. FINDINGS: Clear. IMPRESSION: Normal. RECOMMENDATION: CT.", "Clear.", "Normal."),
        ("Indication: cough\r\nFindings: Clear.\r\nImpression: Normal.", "Clear.", "Normal."),
        ("FINDINGS:\n\nIMPRESSION:\n", "", ""),
        ("", "", ""),
    ],
)
def test_sections_of_a_report(text, findings, impression):
    assert split_report(text) == (findings, impression)


@pytest.mark.parametrize(
    "text", ["A" + " " * 10**6, "A B " * 10**6 + ":", "_" * 10**6 + "x", "." + " " * 10**6, "\n " * 10**5]
)
def test_no_text_takes_long_to_split(text):
    start = time.process_time()
    split_report(text + "x")
    assert time.process_time() - start < 2
