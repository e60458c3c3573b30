"""Everybody's labels under CheXpert's names: ChestX-ray14's, and the MeSH terms of Open-i."""

import ast
import re

from archives.records import Problems
from archives.tables import is_empty
from common.observations import OBSERVATIONS

Json = str | int | float | list | dict | None  # what a cell of a table or a value of a JSON file holds

NIH = {  # ChestX-ray14's names (Wang et al. 2017) -> CheXpert's; equal names need no line
    "Effusion": "Pleural Effusion",
    "Infiltration": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
}
# CheXpert's observations <- the major terms of Open-i, "heading/place/qualifier/...", by how a term begins. Where a
# heading could go two ways, what CheXpert's published phrase files say of its words decides.
MESH_DEVICES = r"catheters, indwelling|(implanted )?medical device|tube, inserted|spinal fusion"
MESH = {
    "Enlarged Cardiomediastinum": r"mediastinum/(enlarged|prominent)",
    "Cardiomegaly": r"cardiomegaly|cardiac shadow/(enlarged|borderline)",
    # "Opacity" says where it lies or nothing: only other organs than the lung are left out; "Density" is of anything,
    # so it must name the lung. Scars (cicatrix), interstitial markings and interstitial lung disease are opacities to
    # CheXpert; crowded bronchovascular markings are vessels in a shallow breath. What is round is a lesion, below.
    "Lung Opacity": r"opacity(?!.*/round)(?!/(pleura|ribs|thoracic|mediastinum|adipose))|density/lung(?!.*/round)"
    r"|infiltrate|airspace disease|markings/lung(?!.*/bronchovascular)|lung/(.*/)?interstitial"
    r"|lung diseases, interstitial|cicatrix(?!/(pleura|breast|ribs))",
    # "Nodular opacity" and "nodular density" are CheXpert's words for a lesion, and coded "Opacity/lung/.../round".
    # Granulomas and calcified nodules are none to CheXpert, so "Calcified Granuloma" and "Calcinosis" stand nowhere.
    "Lung Lesion": r"nodule(?!/(pleura|breast))|mass/lung|cavitation/lung"
    r"|(opacity|density)/((lung|thorax|scattered)/(.*/)?)?round",
    "Edema": r"pulmonary edema|heart failure|pulmonary congestion",
    "Consolidation": r"consolidation",
    "Pneumonia": r"pneumonia",
    "Atelectasis": r"pulmonary atelectasis",  # "Volume Loss" is a finding outside of the 14
    "Pneumothorax": r"(hydro)?pneumothorax",
    "Pleural Effusion": r"pleural effusion|hydropneumothorax|(costophrenic angle|sulcus)/(.*/)?blunted",
    "Pleural Other": r"(thickening|cicatrix|calcinosis)/pleura",
    # "Deformity" of ribs or vertebrae is outside of the 14: it codes old breaks, wedging and surgery alike.
    "Fracture": r"fractures, bone",
    # A spinal fusion is seen by its plates and screws. CheXpert lists no clips, wires or stents.
    "Support Devices": MESH_DEVICES,
}
MESH_UNCERTAIN = r"(cardiomegaly|cardiac shadow)/(.*/)?borderline|pulmonary congestion|.*/blunted"  # as in CheXpert
# Terms that leave a chest without finding: devices and what surgery left, a poor film, a shallow breath.
MESH_NEUTRAL = (
    rf"normal|{MESH_DEVICES}|surgical instruments|stents|sutures|technical quality of image unsatisfactory"
    r"|lung/(.*/)?hypoinflation|markings/(.*/)?bronchovascular"
)


def mesh_labels(terms: list[str]) -> dict[str, int]:
    """Major terms of one Open-i report -> CheXpert's labels: 1, or -1 where all terms of an observation are uncertain.

    "No indexing" and an empty list say nothing and give no labels.
    """

    def begin(pattern: str) -> list[str]:
        return [term for term in map(str.lower, terms) if re.match(rf"(?:{pattern})(?:/|$)", term)]

    found = {name: begin(pattern) for name, pattern in MESH.items()}
    uncertain = set(begin(MESH_UNCERTAIN))
    labels = {name: -1 if uncertain.issuperset(named) else 1 for name, named in found.items() if named}
    return labels | ({"No Finding": 1} if terms and len(begin(MESH_NEUTRAL)) == len(terms) else {})


def label_value(value: Json) -> int | None:
    """1, 0 or -1; None for nothing and for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number in (1, 0, -1) else None


def named_values(given: Json) -> dict[str, Json]:
    """{"Edema": 1} as it is or as text, or NIH's "Edema|Effusion" -> {"Edema": 1, "Effusion": 1}."""
    if isinstance(given, str) and given.lstrip().startswith("{"):
        text = re.sub(r"\b(nan|NaN|null)\b", "None", given[:10000])  # JSON, or as Python prints it
        try:
            given = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return {"(not understood)": given}
    if isinstance(given, dict):
        return {str(name): value for name, value in given.items()}
    if isinstance(given, (list, tuple)):
        return {str(name): 1 for name in given}
    return {name.strip(): 1 for name in str(given).split("|") if name.strip()}


def read_labels(given: Json, row: str, problems: Problems) -> dict[str, int]:
    """The labels of a row under CheXpert's names; of two that mean one, positive beats uncertain beats negative."""
    labels: dict[str, int] = {}
    for name, value in named_values(given).items():
        observation, number = NIH.get(name, name), label_value(value)
        if number is None:
            if not is_empty(value):
                problems.add("note", "label not understood", f"{row}: {name}")
        elif observation not in OBSERVATIONS:
            problems.add("note", "label without a CheXpert name", name)
        else:
            labels[observation] = max(labels.get(observation, 0), number, key=(0, -1, 1).index)
    return labels
