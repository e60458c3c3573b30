"""What a phantom shows: a patient and findings with side, place and size, chosen at random from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.observations import OBSERVATIONS

PATHOLOGIES = OBSERVATIONS[:12]
SIDES = {"right": -1, "left": 1}  # which way from the midline, in the picture
ZONES = ("upper", "mid", "lower")
DEVICES = ("endotracheal tube", "central venous catheter", "pacemaker")
KINDS = (  # of findings
    "widened mediastinum",
    "cardiomegaly",
    "lung opacity",
    "nodule",
    "nodules",
    "mass",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural effusion",
    "pleural thickening",
    "rib fracture",
    *DEVICES,
)


@dataclass(frozen=True)
class Finding:
    """One thing that is really in the picture."""

    observation: str  # one of OBSERVATIONS
    kind: str  # "nodule", "endotracheal tube", ...; else the observation in lower case
    side: str | None = None  # the patient's "left" | "right" | "bilateral"
    place: str | None = None  # "upper lobe", "lingula", "lower lung", "basilar", "apical", ...
    severity: str | None = None  # "small" | "mild" | ... as the report says it
    amount: float = 0.0  # how much, in the unit of its kind: cardiothoracic ratio, or a fraction of the picture


@dataclass(frozen=True)
class Patient:
    """What `truth` decides: enough to render the picture and to write the report."""

    view: str  # "AP" | "PA"
    cardiothoracic_ratio: float  # widest heart / widest inner thorax; above 0.5 (PA) the heart is enlarged
    findings: tuple[Finding, ...]


def labels_of(findings: tuple[Finding, ...]) -> dict[str, int]:
    """The 14 observations -> 1 (to be seen) or 0.

    "No Finding" is 1 when everything but Support Devices is 0, as in CheXpert. CheXpert's hierarchy (cardiomegaly
    implies an enlarged cardiomediastinum, consolidation implies an opacity) is NOT applied: each observation has
    its own look here, an enlarged heart leaves the upper mediastinum narrow, and the report names only what is
    to be seen, as CheXpert's labeler also marks only what is mentioned.
    """
    present = {finding.observation for finding in findings}
    labels = {name: int(name in present) for name in OBSERVATIONS}
    labels["No Finding"] = int(not any(labels[name] for name in PATHOLOGIES))
    return labels


def streams(seed: int, index: int) -> list[np.random.Generator]:
    """Three independent generators for sample `index`: truth, rendering, wording."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence([seed, index]).spawn(3)]


def pick(rng: np.random.Generator, options: Sequence[str], p: tuple[float, ...] | None = None) -> str:
    """One of the options at random."""
    return options[rng.choice(len(options), p=p)]


def lobe(side: str, zone: str) -> str:
    if zone == "mid":
        return "middle lobe" if side == "right" else "lingula"
    return f"{zone} lobe"


def zone_of(place: str) -> str:
    return "mid" if place.split()[0] in ("middle", "mid", "lingula") else place.split()[0]


def sample_finding(name: str, view: str, rng: np.random.Generator) -> tuple[Finding, set[str]]:
    """One finding of observation `name`, and the places it takes up ("left lower", "right wall", ...)."""
    side = pick(rng, ("left", "right"))
    zone = pick(rng, ZONES)
    grade = int(rng.choice(3, p=(0.4, 0.35, 0.25)))
    u = float(rng.random())
    kind = name.lower()

    def at(side: str, *places: str) -> set[str]:
        sides = ("left", "right") if side == "bilateral" else (side,)
        return {f"{s} {place}" for s in sides for place in places}

    occupied = {"upper": ["upper"], "mid": ["mid", "hilum"], "lower": ["lower", "base", "angle"]}[zone]
    if name == "Cardiomegaly":
        ratio = (0.555, 0.61, 0.665)[grade] + 0.03 * u + (0.015 if view == "AP" else 0.0)
        taken = at("left", "lower", "mid") if grade == 2 else set()
        return Finding(name, kind, severity=("mild", "moderate", "severe")[grade], amount=ratio), taken
    if name == "Enlarged Cardiomediastinum":
        return Finding(name, "widened mediastinum", amount=0.13 + 0.025 * u), set()
    if name == "Edema":
        severity = ("mild", "moderate", "severe")[grade]
        return Finding(name, kind, severity=severity, amount=0.45 + 0.3 * grade), at("bilateral", "hilum")
    if name == "Lung Opacity":
        return Finding(name, kind, side, f"{zone} lung", amount=0.105 + 0.035 * u), at(side, *occupied)
    if name == "Lung Lesion":
        if u < 0.2:
            taken = at("bilateral", *ZONES)
            return Finding(name, "nodules", "bilateral", None, "multiple", amount=0.024), taken
        kind, radius = ("nodule", 0.024 + 0.010 * rng.random()) if u < 0.6 else ("mass", 0.05 + 0.02 * rng.random())
        return Finding(name, kind, side, lobe(side, zone), amount=float(radius)), at(side, *occupied)
    if name in ("Consolidation", "Pneumonia"):
        return Finding(name, kind, side, lobe(side, zone), amount=0.85 + 0.15 * u), at(side, *occupied)
    if name == "Atelectasis":
        side = pick(rng, ("left", "right", "bilateral"), (0.35, 0.35, 0.3))
        grade = min(grade, 1)
        return Finding(name, kind, side, "basilar", ("mild", "moderate")[grade], 0.02 + 0.03 * grade), at(side, "base")
    severity = ("small", "moderate", "large")[grade]
    if name == "Pneumothorax":
        taken = at(side, "apex", "wall")
        taken |= set().union(at(side, *ZONES) if grade else (), at(side, "hilum", "base") if grade == 2 else ())
        return Finding(name, kind, side, None, severity, (0.055, 0.10, 0.19)[grade] + 0.015 * u), taken
    if name == "Pleural Effusion":
        side = pick(rng, ("left", "right", "bilateral"), (0.38, 0.38, 0.24))
        taken = at(side, "angle") | (at(side, "base", "lower", "wall") if grade else set())
        taken |= at(side, "mid") if grade == 2 else set()
        return Finding(name, kind, side, None, severity, (0.15, 0.25, 0.40)[grade] + 0.03 * u), taken
    if name == "Pleural Other":
        place = pick(rng, ("lateral", "apical"))
        calcified = "calcified" if u < 0.35 else None
        taken = at(side, "wall" if place == "lateral" else "apex")
        return Finding(name, "pleural thickening", side, place, calcified, 0.029 + 0.012 * u), taken
    return Finding("Fracture", "rib fracture", side, None, pick(rng, ("displaced", "healing"))), at(side, "wall")


def sample_devices(rng: np.random.Generator) -> list[Finding]:
    """One device, or two in a quarter of the cases, each on its usual side more often."""
    chosen = rng.choice(3, size=2 if rng.random() < 0.25 else 1, replace=False)
    sides = {1: pick(rng, ("right", "left"), (0.7, 0.3)), 2: pick(rng, ("left", "right"), (0.8, 0.2))}
    return [Finding("Support Devices", DEVICES[k], sides.get(int(k))) for k in chosen]


def truth(seed: int, index: int) -> Patient:
    """Sample `index` of `seed`: who it is and what is found, without rendering (tens of microseconds).

    The same on every machine and independent of every other index. Findings that would hide each other are not
    combined: each takes up places in the chest, and one whose places are taken is sampled again elsewhere.
    """
    rng = streams(seed, index)[0]
    view = pick(rng, ("PA", "AP"), (0.6, 0.4))
    ratio = float(rng.uniform(0.41, 0.48) if view == "PA" else rng.uniform(0.43, 0.50))
    count = 0 if rng.random() < 0.22 else 1 + int(rng.choice(4, p=(0.38, 0.40, 0.18, 0.04)))
    findings: list[Finding] = []
    taken: set[str] = set()
    for k in rng.permutation(len(PATHOLOGIES))[:count]:
        for _ in range(12):
            finding, places = sample_finding(PATHOLOGIES[k], view, rng)
            if not places & taken:
                findings.append(finding)
                taken |= places
                break
    if rng.random() < 0.18:
        findings += sample_devices(rng)
    for finding in findings:
        if finding.observation == "Cardiomegaly":
            ratio = finding.amount
    return Patient(view, ratio, tuple(findings))
