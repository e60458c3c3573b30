"""What a model is asked about a film, and the names of observations that may stand before its report."""

import re
from collections.abc import Sequence
from functools import lru_cache

from reports.labeler import POSITIVE, UNCERTAIN, label_report

DEFAULT_QUESTION = "Write the FINDINGS and the IMPRESSION of this chest X-ray."
SHORT_QUESTION = "Write the IMPRESSION of this chest X-ray."
NAMES_QUESTION = "Name the OBSERVATIONS of this chest X-ray."
# The ten wordings of UniX's own test file; {} says which sections the report has.
QUESTIONS = (
    "Analyze this chest X-ray and give the {}.",
    "As a radiologist, analyze this X-ray and summarize the {}.",
    "As an imaging expert, review this X-ray and share the {}.",
    "Examine this X-ray image and describe the {}.",
    "Give a radiology report based on the chest x-ray image, including {}.",
    "Interpret this X-ray image and summarize the {}.",
    "Please interpret this X-ray and provide the {}.",
    "Provide the {} for this chest X-ray.",
    "Review this X-ray and provide a detailed {}.",
    "Review this chest X-ray and provide the {}.",
)


def default_question(wording: str) -> str:
    """What a model knows whose config has this `wording`: our own question ("plain"), or one of those published."""
    return DEFAULT_QUESTION if wording == "plain" else question_for("FINDINGS: IMPRESSION:", 2)


def question_for(report: str, number: int) -> str:
    """The wording `number` of QUESTIONS for the sections that `report` names: "the FINDINGS and IMPRESSION", or one."""
    sections = [name for name in ("FINDINGS", "IMPRESSION") if f"{name}:" in report] or ["FINDINGS"]
    wording = QUESTIONS[number]
    if sections == ["FINDINGS"]:
        wording = wording.replace(" a detailed ", " detailed ")  # as theirs has it
    return wording.format(" and ".join(sections))


@lru_cache(maxsize=1 << 16)
def observations_of(report: str) -> str:
    """What the report affirms or suspects, by the labeler, as `name_observations` has it."""
    return name_observations([n for n, label in label_report(report).items() if label.value in (POSITIVE, UNCERTAIN)])


def name_observations(names: Sequence[str]) -> str:
    """ "OBSERVATIONS: Cardiomegaly, Pleural Effusion." """
    return f"OBSERVATIONS: {', '.join(names) or 'Other Finding'}."


def without_observations(report: str) -> str:
    """A written report without the names of `name_observations` before it; as it is where it has nothing else."""
    return re.sub(r"\AOBSERVATIONS:.*?\s*(?=FINDINGS:|IMPRESSION:|$)", "", report, flags=re.DOTALL) or report
