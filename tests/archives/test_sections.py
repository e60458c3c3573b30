"""The sections of a report, in all the ways that radiologists write them."""

import time

import pytest
from archive_files import MIMIC_REPORT

from archives.sections import read_section, split_report

CLEAR = " FINDINGS:  Clear.\n\n IMPRESSION:  Normal."
NORMAL = "IMPRESSION: Normal."


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
        # Of several impressions the last: provisional ones and the question of the clinic come first.
        (" FINDINGS: Clear.\n IMPRESSION: One.\n FINDINGS: Wide.\n IMPRESSION: Two.", "Clear. Wide.", "Two."),
        (
            f" PROVISIONAL FINDINGS IMPRESSION (PFI): Effusion.\n {'_' * 78}\n FINAL REPORT\n{CLEAR}",
            "Clear.",
            "Normal.",
        ),
        (f" CLINICAL IMPRESSION:  Sepsis, rule out pneumonia.\n\n{CLEAR}", "Clear.", "Normal."),
        (f"Clinical Impression: Sepsis. {CLEAR}", "Clear.", "Normal."),
        (f"{CLEAR}\n REVISED IMPRESSION: Effusion.", "Clear.", "Effusion."),
        ("Impression: One. Findings: Clear. Revised impression: Two.", "Clear.", "Two."),
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
        # Headings inside of a section stay in it.
        (
            f"FINDINGS:\nLUNGS: Clear.\nLINES AND TUBES: None.\n\n{NORMAL}",
            "LUNGS: Clear. LINES AND TUBES: None.",
            "Normal.",
        ),
        (f"FINDINGS: LUNGS: Clear. PLEURA: No fluid. {NORMAL}", "LUNGS: Clear. PLEURA: No fluid.", "Normal."),
        (
            f"FINDINGS:\nLUNGS:\nClear\nRIBS: Intact\nOTHER: None\n{NORMAL}",
            "LUNGS: Clear\nRIBS: Intact\nOTHER: None",
            "Normal.",
        ),
        (f"HISTORY: Cough.\nLUNGS: Clear.\nHEART: Large.\n{NORMAL}", "LUNGS: Clear. HEART: Large.", "Normal."),
        (f"CHEST, TWO VIEWS:\nLUNGS: Clear.\n{NORMAL}\nDICTATED BY: Dr. A", "LUNGS: Clear.", "Normal."),
        # Headings of any make.
        ("Findings: The lungs are clear. Impression: Normal.", "The lungs are clear.", "Normal."),
        ("findings : lungs are clear . impression : normal .", "lungs are clear .", "normal ."),
        ("Exam: chest. Findings: clear Impression: Normal. Recommendation: CT.", "clear", "Normal."),
        ("FINDINGS\nClear.\n\nImpression\nNormal.", "Clear.", "Normal."),
        ("FINDINGS: Clear.\\nIMPRESSION: Normal.", "Clear.", "Normal."),
        ("FINDINGS: Clear.\\r\\n\\r\\nIMPRESSION:\\tNormal.", "Clear.", "Normal."),
        ("FINDINGS: Clear.<br>IMPRESSION: Normal.", "Clear.", "Normal."),
        (
            "<p><b>Findings:</b> Clear.</p>\n<p><b>Impression</b>: Normal&nbsp;chest.<BR/></p>",
            "Clear.",
            "Normal chest.",
        ),
        ("**Findings:** Clear. **Impression:** Normal.", "Clear.", "Normal."),
        ("**FINDINGS**\nClear.\n\n__Impression__:\nNormal.", "Clear.", "Normal."),
        ("# Chest\n## FINDINGS\nClear.\n## Impression ##\nNormal.\n### Recommendation:\nCT", "Clear.", "Normal."),
        ("[FINDINGS] Clear. [IMPRESSION] Normal.", "Clear.", "Normal."),
        ("FINDINGS - Clear. IMPRESSION - Normal.", "Clear.", "Normal."),
        ("1. FINDINGS: Clear.\n2. IMPRESSION: Normal.", "Clear.", "Normal."),
        ("1) Findings: Clear. 2) Impression: Normal.", "Clear.", "Normal."),
        (
            "I. FINDINGS\nClear.\nII. IMPRESSION\n1. Findings of edema.\n2. Normal.",
            "Clear.",
            "1. Findings of edema. 2. Normal.",
        ),
        ("**Findings** Clear.<br>**Impression** Normal.", "Clear.", "Normal."),
        ("FINDINGS- Clear. IMPRESSION- Normal.", "Clear.", "Normal."),
        ("{FINDINGS}: Clear. {IMPRESSION}: Normal.", "Clear.", "Normal."),
        ("FINDINGS:Clear lungs.IMPRESSION:Normal.", "Clear lungs.", "Normal."),
        ("FINDINGS: Clear.|IMPRESSION: Normal.", "Clear.", "Normal."),
        ("Findings – Clear.\nImpression -- Normal.", "Clear.", "Normal."),
        ("FINDINGS\n--------\nClear.\nIMPRESSION\n==========\nNormal.", "Clear.", "Normal."),
        ("FINDINGS： Clear. IMPRESSION： Normal.", "Clear.", "Normal."),
        ("FINDINGS: Clear.\nIMPRESSION: Normal.\nEND OF IMPRESSION: 10:30", "Clear.", "Normal."),
        # What only looks like one.
        ("FINDINGS: No findings - stable. Left - right.", "No findings - stable. Left - right.", ""),
        ("Findings: No significant findings: none. Impression: Normal.", "No significant findings: none.", "Normal."),
        (
            "FINDINGS: [**Name 1**] ___ *small* effusion &lt; 1 cm &amp; x_y_z.",
            "[**Name 1**] ___ small effusion < 1 cm & x_y_z.",
            "",
        ),
        ("", "", ""),
    ],
)
def test_sections_of_a_report(text, findings, impression):
    assert split_report(text) == (findings, impression)


@pytest.mark.parametrize("mark", ["{}. ", "{}.", "{}) ", "({}) ", "- ", "* ", "•", ""])
def test_items_of_a_list_keep_their_lines(mark):
    items = ["No pneumothorax", "Cardiomegaly", "Left effusion"]
    lines = "\n".join(mark.format(k + 1) + item for k, item in enumerate(items))
    assert split_report(f"IMPRESSION:\n{lines}") == ("", lines)
    assert read_section(lines.replace("\n", " \r\n\r\n  ")) == read_section(lines.replace("\n", "<br>")) == lines
    assert read_section(lines.replace("\n", ".\n")) == lines.replace("\n", ". ")  # a full stop is enough


def test_lines_of_a_sentence_are_joined():
    text = "The right lung is\nclear, the\nCarina and the left\nSwan-Ganz catheter\nare in place,\nThe end."
    assert read_section(text) == " ".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "A" + " " * 10**6,
        "A B " * 10**6 + ":",
        "_" * 10**6 + "x",
        "." + " " * 10**6,
        "\n " * 10**5,
        "*a" * 10**5,
        "<b " * 10**5,
        "FINDINGS " * 10**5,
        "-" * 10**6,
    ],
)
def test_no_text_takes_long_to_split(text):
    start = time.process_time()
    split_report(text + "x")
    assert time.process_time() - start < 2
