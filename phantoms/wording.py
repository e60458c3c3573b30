"""The report of a phantom, in the words of radiologists, written from its truth."""

import numpy as np

from phantoms.truth import Finding, Patient, labels_of, pick

# Noun phrases for the fourteen observations, the plainest first: impressions use it most. {place_adj} is the place
# as an adjective. The words are those a rule-based labeler (CheXpert) knows, and none names another observation.
PHRASES: dict[str, list[str]] = {
    "Enlarged Cardiomediastinum": ["widened mediastinum", "mediastinal widening", "widened upper mediastinum"],
    "Cardiomegaly": ["{severity} cardiomegaly", "{severity} cardiac enlargement", "{severity}ly enlarged heart"],
    "Lung Opacity": ["hazy {side} {place} opacity", "hazy opacity in the {side} {place}", "{side} {place} haziness"],
    "Lung Lesion": ["{side} {place_adj} {kind}", "{kind} in the {side} {place}", "round {side} {place_adj} {kind}"],
    "nodules": ["multiple bilateral lung nodules", "multiple bilateral pulmonary nodules"],
    "Edema": ["{severity} pulmonary edema", "{severity} perihilar edema", "{severity} edema with vascular congestion"],
    "Consolidation": [
        "{side} {place_adj} consolidation",
        "consolidation in the {side} {place}",
        "dense {side} {place_adj} consolidation",
    ],
    "Pneumonia": [
        "{side} {place_adj} pneumonia",
        "pneumonia in the {side} {place}",
        "patchy {side} {place_adj} pneumonia",
    ],
    "Atelectasis": ["{severity} {side} basilar atelectasis", "{severity} {side} basilar linear atelectasis"],
    "Pneumothorax": ["{severity} {side} pneumothorax"],
    "Pleural Effusion": ["{severity} {side} pleural effusion{s}", "{severity} {side} effusion{s}"],
    "Pleural Other": [
        "{severity} {side} {place} pleural thickening",
        "{severity} {place} pleural thickening on the {side}",
    ],
    "Fracture": ["{severity} {side} rib fractures", "{severity} rib fractures on the {side}"],
    "endotracheal tube": ["endotracheal tube"],
    "central venous catheter": ["{side} central venous catheter", "{side} central line"],
    "pacemaker": ["{side} chest wall pacemaker", "{side} pacemaker"],
}
FRAMES = ("there {is_are} {phrase}", "{phrase} {is_are} present", "{phrase} {is_are} seen", "{phrase}")
DEVICE_FRAMES = {
    "endotracheal tube": ("{phrase} tip is above the carina", "{phrase} in place, tip above the carina"),
    "central venous catheter": ("{phrase} tip is in the superior vena cava", "{phrase} ends in the superior vena cava"),
    "pacemaker": ("{phrase} with leads in the heart", "{phrase} is in place with two leads"),
}
# Sentences that deny: the observations that must all be absent -> ways to say so.
LUNGS_CLEAR = ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
NO_EFFUSION_OR_AIR = ["No pleural effusion or pneumothorax.", "There is no pneumothorax or pleural effusion."]
NORMAL_HEART = ["The cardiac silhouette is normal in size.", "The cardiomediastinal silhouette is normal."]
DENIALS: dict[tuple[str, ...], list[str]] = {
    ("Pleural Effusion", "Pneumothorax"): NO_EFFUSION_OR_AIR,
    ("Pleural Effusion",): ["No pleural effusion.", "There is no pleural effusion."],
    ("Pneumothorax",): ["No pneumothorax.", "There is no pneumothorax."],
    LUNGS_CLEAR: ["The lungs are clear.", "Lungs are clear.", "Both lungs are clear."],
    ("Consolidation", "Pneumonia"): ["No focal consolidation.", "There is no focal consolidation."],
    ("Edema",): ["No pulmonary edema.", "There is no pulmonary edema."],
    ("Cardiomegaly", "Enlarged Cardiomediastinum"): NORMAL_HEART,
    ("Cardiomegaly",): ["The heart is normal in size.", "Heart size is normal."],
    ("Enlarged Cardiomediastinum",): ["The mediastinum is normal in width.", "The mediastinal contours are normal."],
    ("Fracture",): ["No rib fracture.", "No acute fracture is seen.", "The bones are intact."],
}
NORMAL_IMPRESSIONS = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
)
# Hedges are about causes only, in a sentence of their own, and never name an observation.
HEDGES = {
    "Atelectasis": "This may reflect shallow inspiration.",
    "Edema": "This may be cardiogenic.",
    "Pneumonia": "Comparison with prior images is suggested.",
    "Lung Lesion": "Comparison with prior images is suggested.",
}


def sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[0].upper() + text[1:] + "."


def phrase_of(finding: Finding, rng: np.random.Generator, plain: float) -> str:
    """A noun phrase with kind, side, place and severity; with probability `plain` the plainest one."""
    options = PHRASES.get(finding.kind) or PHRASES[finding.observation]
    template = options[0] if rng.random() < plain else pick(rng, options)
    place = finding.place or ""
    text = template.format(
        kind=finding.kind,
        side=finding.side or "",
        place=place,
        place_adj="lingular" if place == "lingula" else place,
        severity=finding.severity or "",
        s="s" if finding.side == "bilateral" else "",
    )
    return " ".join(text.split())


def write_report(patient: Patient, rng: np.random.Generator) -> tuple[str, str]:
    """(report, impression). The report is "FINDINGS: ... IMPRESSION: ...", together under 65 words.

    The convention is positive = present: every finding is affirmed in both sections, without a hedge, with its
    side, place and severity; nothing absent is affirmed. A hedge concerns the cause alone, stands in a sentence
    of its own and names no observation, so a labeler has no uncertain mention to find.
    """
    absent = {name for name, value in labels_of(patient.findings).items() if not value}
    findings = [patient.findings[k] for k in rng.permutation(len(patient.findings))]
    crowded = len(findings) > 3  # keep to the word budget
    body, impression = [], []
    for finding in findings:
        phrase = phrase_of(finding, rng, plain=1.0 if crowded else 0.3)
        plural = phrase.endswith(("effusions", "nodules")) or finding.observation == "Fracture"
        frame = "{phrase}" if crowded else pick(rng, DEVICE_FRAMES.get(finding.kind, FRAMES))
        body.append(sentence(frame.format(phrase=phrase, is_are="are" if plural else "is")))
        if finding.observation in HEDGES and len(findings) < 3 and rng.random() < 0.08:
            body.append(HEDGES[finding.observation])
        short = phrase_of(finding, rng, plain=1.0 if crowded else 0.7)
        in_place = finding.observation == "Support Devices" and not crowded
        impression.append(sentence(short + (" in place" if in_place else "")))
    if "No Finding" not in absent:
        impression.insert(0, pick(rng, NORMAL_IMPRESSIONS[: 2 if findings else 3]))
    denials, said = [], set()
    for names, ways in DENIALS.items():
        words = sum(len(text.split()) for text in body + denials)
        more = words < 15 or (words < 28 and rng.random() < 0.6)
        if more and set(names) <= absent and not set(names) & said:
            denials.append(pick(rng, ways))
            said |= set(names)
    body = denials + body if rng.random() < 0.3 else body + denials
    text = " ".join(impression)
    return f"FINDINGS: {' '.join(body)} IMPRESSION: {text}", text
