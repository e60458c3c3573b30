"""The picture of a phantom: its patient's anatomy is summed up as attenuation, then exposed like a film.

    draw(patient, rng, size) -> (size, size) uint8

Everything is rendered in patient coordinates: y runs down the picture from 0 to 1, and t is the distance from the
midline, so both lungs share one set of formulas. The patient's left is on the RIGHT of the picture, as on film.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from common.observations import OBSERVATIONS
from phantoms.truth import SIDES, ZONES, Finding, Patient, zone_of

MIN_DRAWING = 256  # smaller pictures are rendered at this size and reduced, so all sizes show the same patient


# -------------------------------------------------------------------------------------------------- the anatomy


@dataclass(frozen=True)
class Anatomy:
    """One chest in numbers, and the contours that follow from them. All lengths are fractions of the picture."""

    half_thorax: float  # inner chest wall from the midline at its widest
    apex: float  # y of the lung tops
    apex_t: float  # distance of the lung tops from the midline
    domes: dict[str, float]  # side -> y of the diaphragm's highest point
    angle_drop: float  # how far the costophrenic angle lies under the dome
    mediastinum: float  # half width of the upper mediastinum
    heart: tuple[float, float, float, float, float]  # centre t (+ is left), centre y, long and short radius, tilt
    knob: float  # y of the aortic knob
    carina: float  # y where the trachea divides

    def outer(self, y: np.ndarray, retract: float = 0.0) -> np.ndarray:
        """t of the lateral lung border at height y; `retract` moves it inwards (a collapsing lung)."""
        top = self.apex + 0.9 * retract
        v = np.clip((y - top) / (max(self.domes.values()) + 0.03 - top), 0, 1)
        reach = self.half_thorax - retract
        apex_t = min(self.apex_t, 0.5 * reach + 0.02)
        return apex_t + (reach - apex_t) * (1 - (1 - v) ** 2.4) ** 0.6

    def heart_border(self, y: np.ndarray, side: str) -> np.ndarray:
        """t of the heart's border at height y, -1 above and below the heart (an ellipse, apex down to the left)."""
        centre_t, centre_y, long, short, tilt = self.heart
        cos, sin, dy = math.cos(tilt), math.sin(tilt), y - centre_y
        a = (cos / long) ** 2 + (sin / short) ** 2
        b = cos * sin * (long**-2 - short**-2)
        c = (sin / long) ** 2 + (cos / short) ** 2
        inside = (b * dy) ** 2 - a * (c * dy**2 - 1)
        root = np.sqrt(np.maximum(inside, 0))
        t = (-b * dy + SIDES[side] * root) / a + centre_t
        return np.where(inside > 0, SIDES[side] * t, -1.0)

    def inner(self, y: np.ndarray, side: str) -> np.ndarray:
        """t of the medial lung border at height y: great vessels, aortic knob, then the heart."""
        vessels = self.mediastinum * (0.72 + 0.28 * smooth((y - self.apex) / 0.16))
        if side == "left":
            vessels = vessels + 0.028 * np.exp(-(((y - self.knob) / 0.038) ** 2))
        above = smooth((self.heart[1] - 0.02 - y) / 0.16)  # under the hila only the spine and the heart remain
        vessels = 0.04 + (vessels - 0.04) * above
        border = 0.02 * np.logaddexp(vessels / 0.02, self.heart_border(y, side) / 0.02)  # a soft maximum
        w = np.clip((y - self.apex) / 0.11, 0, 1)
        return self.apex_t - (self.apex_t - border) * np.sqrt(1 - (1 - w) ** 2)

    def diaphragm(self, t: np.ndarray, side: str) -> np.ndarray:
        """y of the diaphragm at distance t from the midline."""
        top = 0.5 * self.half_thorax
        lateral = np.maximum(t - top, 0) / (self.half_thorax - top)
        medial = np.maximum(top - t, 0) / top
        return self.domes[side] + self.angle_drop * lateral**2.2 + 0.04 * medial**2

    def cardiothoracic_ratio(self) -> float:
        """Measured from the contours, as on the film: widest heart over widest inner thorax."""
        y = np.linspace(0, 1, 2000)
        heart = self.heart_border(y, "left").max() + self.heart_border(y, "right").max()
        return float(heart / (2 * self.outer(y).max()))


def anatomy(patient: Patient, rng: np.random.Generator) -> Anatomy:
    """A chest for this patient. Findings bend the sampled numbers afterwards, so they never shift the stream."""
    u = rng.random(12).tolist()  # Python floats, which leave float32 arrays float32
    portable = patient.view == "AP"  # taken lying or sitting: shallow inspiration
    half_thorax = 0.335 + 0.035 * u[0]
    apex = 0.135 + 0.04 * u[1]
    dome = 0.735 + 0.06 * u[2] - (0.06 if portable else 0.0)
    domes = {"right": dome, "left": dome + 0.012 + 0.02 * u[3]}
    mediastinum = 0.066 + 0.012 * u[4] + (0.006 if portable else 0.0)
    for finding in patient.findings:
        if finding.observation == "Atelectasis":  # volume loss pulls the diaphragm up
            for side in both(finding.side):
                domes[side] -= 1.3 * finding.amount
        if finding.kind == "widened mediastinum":
            mediastinum = finding.amount
    # An ellipse with radii (long, short) and this tilt is 2 * half_width wide.
    half_width = patient.cardiothoracic_ratio * half_thorax
    tilt, flatness = 0.55 + 0.25 * u[5], 0.70 + 0.08 * u[6]
    long = half_width / math.hypot(math.cos(tilt), flatness * math.sin(tilt))
    half_height = long * math.hypot(math.sin(tilt), flatness * math.cos(tilt))
    heart = (0.36 * half_width, dome + 0.055 - 0.72 * half_height, long, flatness * long, tilt)
    return Anatomy(
        half_thorax=half_thorax,
        apex=apex,
        apex_t=0.135 + 0.03 * u[7],
        domes=domes,
        angle_drop=0.10 + 0.03 * u[8],
        mediastinum=mediastinum,
        heart=heart,
        knob=apex + 0.15 + 0.02 * u[9],
        carina=apex + 0.215 + 0.02 * u[10],
    )


# -------------------------------------------------------------------------------------------------- the picture


def both(side: str | None) -> tuple[str, ...]:
    return ("right", "left") if side in (None, "bilateral") else (side,)


def smooth(v: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, an S in between."""
    v = np.clip(v, 0, 1)
    return v * v * (3 - 2 * v)


def edge(distance: np.ndarray, width: float) -> np.ndarray:
    """1 where the signed distance is well inside (positive), 0 outside; the border is `width` wide."""
    return smooth(distance / width + 0.5)


@lru_cache(maxsize=4)
def axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x - 0.5 as (1, size), y as (size, 1), both float32."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[None, :] - np.float32(0.5), centres[:, None]


class Canvas:
    """Lines and polygons in patient coordinates, rendered at twice the size and reduced, which smooths the edges."""

    def __init__(self, size: int) -> None:
        self.scale = 2 * size
        self.picture = Image.new("L", (2 * size, 2 * size))
        self.pen = ImageDraw.Draw(self.picture)

    def points(self, t: np.ndarray, y: np.ndarray, side: int) -> list[float]:
        return (np.stack([0.5 + side * t, y], axis=1) * self.scale).ravel().tolist()

    def line(self, t: np.ndarray, y: np.ndarray, side: int, width: float, ink: int) -> None:
        self.pen.line(self.points(t, y, side), fill=ink, width=max(1, round(width * self.scale)), joint="curve")

    def band(self, t: np.ndarray, y: np.ndarray, side: int, width: float, ink: int, rim: int) -> None:
        """Strips of constant width with a rim, one along each curve: ribs. t, y: (points,) or (curves, points)."""
        t, y = np.atleast_2d(t, y)
        dt, dy = t[:, 2:] - t[:, :-2], y[:, 2:] - y[:, :-2]  # tangents; each end takes its neighbour's
        half = 0.5 * width / np.hypot(dt, dy)
        across_t, across_y = (np.concatenate([n[:, :1], n, n[:, -1:]], axis=1) for n in (-dy * half, dt * half))
        x = 0.5 + side * np.concatenate([t + across_t, (t - across_t)[:, ::-1]], axis=1)
        y = np.concatenate([y + across_y, (y - across_y)[:, ::-1]], axis=1)
        for outline in (np.stack([x, y], axis=2) * self.scale).reshape(len(x), -1).tolist():
            self.pen.polygon(outline, fill=ink, outline=rim, width=2)

    def disc(self, t: float, y: float, side: int, radius: float, ink: int, flat: float = 1.0) -> None:
        x, y, rx, ry = (0.5 + side * t) * self.scale, y * self.scale, radius * self.scale, radius * flat * self.scale
        self.pen.ellipse([x - rx, y - ry, x + rx, y + ry], fill=ink)

    def layer(self, blur: float = 0.0) -> np.ndarray:
        """(size, size) float32 in [0, 1]; blur is a radius as a fraction of the picture."""
        small = self.picture.reduce(2)
        if blur:
            small = small.filter(ImageFilter.BoxBlur(1.5 * blur * small.width))
        return np.asarray(small, dtype=np.float32) / 255


def draw(patient: Patient, rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """The picture of a patient, (size, size) uint8.

    The attenuation A of every ray is summed up in float32: soft tissue, minus lung, plus bone, plus findings.
    The film then shows 1 - exp(-k A): dense things saturate towards white, air stays black (Beer and Lambert).
    Give the same fresh `rng` and other findings to see the same chest with other findings.
    """
    s = max(size, MIN_DRAWING)
    x, y = axes(s)
    anatomy_rng, texture_rng, *finding_rngs = rng.spawn(2 + len(OBSERVATIONS))
    rngs = dict(zip(OBSERVATIONS, finding_rngs, strict=True))  # one each: findings do not disturb one another
    chest = anatomy(patient, anatomy_rng)
    u = anatomy_rng.random(16).tolist()
    t = {side: sign * x for side, sign in SIDES.items()}  # (1, s) each
    t_abs = np.abs(x)
    found = {f.observation: f for f in patient.findings}

    # Air in each lung: 1 inside, thinning out towards the borders where the lung wraps around the chest.
    air = {}  # side -> (s, s)
    for side in SIDES:
        wall = chest.outer(y) - t[side]
        medial = t[side] - chest.inner(y, side)
        floor = chest.diaphragm(t[side], side) - y
        top = edge(y - chest.apex - 0.004, 0.012)
        air[side] = edge(wall, 0.014) * edge(medial, 0.024) * edge(floor, 0.014) * top
        air[side] *= 0.80 + 0.20 * smooth(wall / 0.10)
    inflated = dict(air)  # where there is lung and not only air: a pneumothorax lets the lung shrink from the wall
    pneumothorax = found.get("Pneumothorax")
    if pneumothorax:
        side = pneumothorax.side
        inward = chest.outer(y, pneumothorax.amount) - t[side]
        inward = np.minimum(inward, y - chest.apex - 0.9 * pneumothorax.amount)
        inflated[side] = air[side] * edge(inward, 0.008)
        visceral_pleura = air[side] * edge(0.0035 - np.abs(inward), 0.005)

    # Soft tissue: neck, shoulders, trunk and arms, thickest in the middle.
    shoulder = (
        -0.14
        + 0.15 * smooth((t_abs - 0.085 - 0.02 * u[0]) / 0.07)
        + (0.09 + 0.05 * u[1]) * smooth((t_abs - 0.13) / 0.38)
    )
    trunk = chest.half_thorax + 0.045 + 0.05 * u[2] + 0.2 * np.exp(-np.maximum(y - 0.20, 0) / 0.06)
    arm = trunk + (0.02 + 0.10 * u[3]) * np.clip((y - 0.34) / 0.3, 0, 1)
    gap = edge(t_abs - trunk, 0.014) * edge(arm - t_abs, 0.014) * edge(y - 0.34, 0.04)
    body = edge(y - shoulder, 0.014) * (1 - gap)
    thickness = 0.50 + 0.55 * np.sqrt(np.maximum(1 - (t_abs / 0.56) ** 2, 0)) - 0.25 * (1 - smooth((y - 0.02) / 0.2))
    central = edge(chest.inner(y, "left") - t["left"], 0.06) * edge(chest.inner(y, "right") - t["right"], 0.06)
    central = central * edge(0.07 + 0.4 * smooth((y - chest.apex) / 0.12) - t_abs, 0.10)

    leftness = smooth(x / 0.12 + 0.5)  # the two domes join in the middle, behind the heart
    belly = y - chest.diaphragm(t_abs, "right") * (1 - leftness) - chest.diaphragm(t_abs, "left") * leftness
    attenuation = body * (thickness + 0.42 * central * (1 - smooth(belly / 0.10)))
    abdomen = edge(belly, 0.02) * body * edge(chest.half_thorax + 0.03 - t_abs, 0.06)
    attenuation += abdomen * (0.40 + 0.25 * smooth(belly / 0.25))
    if u[4] < 0.7:  # gastric bubble
        bubble_y = chest.domes["left"] + 0.055
        bubble = 1 - ((t["left"] - 0.15 - 0.05 * u[5]) / 0.055) ** 2 - ((y - bubble_y) / (0.022 + 0.012 * u[6])) ** 2
        attenuation -= 0.55 * edge(bubble, 1.0) * abdomen
    if u[7] < 0.4:  # breast shadows: a sharp lower border, no upper one
        for side in SIDES:
            r = np.hypot((t[side] - 0.21) / 0.17, (y - 0.60) / 0.16)
            attenuation += 0.20 * edge(1 - r, 0.10) * smooth((y - 0.45) / 0.2)

    # The lungs let the rays through; vessels branch from the hila and thin outwards.
    edema = found["Edema"].amount if "Edema" in found else 0.0
    vessels = draw_vessels(chest, s, texture_rng, fullness=1 + 0.7 * edema)
    aerated = inflated["left"] + inflated["right"]
    attenuation *= 1 - (0.70 + 0.05 * u[8]) * (air["left"] + air["right"])
    mottle = texture_rng.standard_normal((s // 8, s // 8)).astype(np.float32)
    mottle = np.asarray(Image.fromarray(mottle).resize((s, s), Image.Resampling.BICUBIC))
    attenuation += aerated * (0.40 * (1 + 0.5 * edema) * vessels + 0.016 * mottle)
    if pneumothorax:
        side = pneumothorax.side
        attenuation += 0.32 * visceral_pleura - 0.13 * (air[side] - inflated[side])
        attenuation += 1.1 * pneumothorax.amount * inflated[side]  # less air in the same lung

    posterior, anterior, other = draw_bones(patient, chest, s, u, rngs["Fracture"])
    attenuation += body * (0.48 * posterior + 0.14 * anterior + 0.30 * other)
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * y / (0.047 + 0.02 * y))
    attenuation += body * edge(0.034 + 0.01 * y - t_abs, 0.012) * (0.05 + 0.10 * discs) * (1 - 0.6 * abdomen)
    trachea = edge(0.017 - np.abs(x - 0.004), 0.015) * edge(chest.carina - y, 0.03)
    attenuation -= 0.26 * body * trachea

    for finding in patient.findings:
        name = finding.observation
        if name in AIRSPACE:
            attenuation = draw_airspace(finding, chest, attenuation, inflated, vessels, rngs[name])
        elif name in ("Pleural Effusion", "Pleural Other"):
            attenuation = draw_pleura(finding, chest, attenuation, air, rngs[name])
    devices = [f for f in patient.findings if f.observation == "Support Devices"]
    if devices:
        attenuation += draw_devices(devices, chest, s, rngs["Support Devices"])

    return expose(attenuation, size, anatomy_rng, texture_rng)


def expose(
    attenuation: np.ndarray, size: int, anatomy_rng: np.random.Generator, texture_rng: np.random.Generator
) -> np.ndarray:
    """Attenuation (s, s) -> film (size, size) uint8: a slightly turned patient, exposure, noise."""
    s = len(attenuation)
    low, high = (-0.045, -0.02, -0.02, 1.08, 1.0, 0.85), (0.045, 0.02, 0.02, 1.15, 1.35, 1.1)
    turn, shift_x, shift_y, zoom, k, gamma = anatomy_rng.uniform(low, high).tolist()
    cos, sin, c = math.cos(turn) / zoom, math.sin(turn) / zoom, s / 2  # enlarged so that no corner shows
    matrix = (cos, sin, c - c * cos - c * sin + s * shift_x, -sin, cos, c + c * sin - c * cos + s * shift_y)
    film = Image.fromarray(attenuation.astype(np.float32)).transform(
        (s, s), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    grey = (1 - np.exp(-k * np.maximum(np.asarray(film), 0.02))) ** gamma
    noise = texture_rng.standard_normal((s, s), dtype=np.float32)
    noise[1:] += 0.5 * noise[:-1]  # neighbouring pixels share their noise, as on a scanned film
    noise[:, 1:] += 0.5 * noise[:, :-1]
    grey = 255 * 1.03 * grey + 1.8 * noise
    picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    return np.asarray(picture if s == size else picture.resize((size, size), Image.Resampling.BOX))


def draw_vessels(chest: Anatomy, s: int, rng: np.random.Generator, fullness: float) -> np.ndarray:
    """Both vascular trees and the hila, (s, s) in [0, 1]. Each branch splits in two, four times."""
    canvas = Canvas(s)
    hilum_y = chest.carina + 0.055
    for side, sign in SIDES.items():
        start = float(chest.inner(np.array(hilum_y), side)) + 0.004
        count = 9
        t, y = np.full(count, start), hilum_y + np.linspace(-0.03, 0.06, count)
        angle = np.linspace(-1.45, 1.40, count) + rng.normal(0, 0.10, count)
        reach = 0.055 + 0.02 * np.sin(np.linspace(0, np.pi, count)) + 0.035 * np.linspace(0, 1, count) ** 2
        for level in range(4):
            bend = angle + rng.normal(0, 0.15, len(angle))
            reach = reach * rng.uniform(0.85, 1.2, len(reach))
            t_end, y_end = t + reach * np.cos(bend), y + reach * np.sin(bend)
            width = max(1, round(fullness * (0.0105, 0.0075, 0.0055, 0.004)[level] * canvas.scale))
            ends = np.stack([0.5 + sign * t, y, 0.5 + sign * t_end, y_end], axis=1) * canvas.scale
            for segment in ends.tolist():
                canvas.pen.line(segment, fill=(215, 165, 110, 70)[level], width=width)
            t, y = np.repeat(t_end, 2), np.repeat(y_end, 2)
            fork = rng.uniform(0.18, 0.5, len(bend))
            angle = np.stack([bend - fork, bend + fork], axis=1).ravel()
            reach = np.repeat(reach * 0.82, 2)
        canvas.disc(start + 0.012, hilum_y + (0.01 if side == "right" else -0.012), sign, 0.022, 235, flat=1.6)
    return canvas.layer(blur=0.003)


def draw_bones(
    patient: Patient, chest: Anatomy, s: int, u: list[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior rib arcs, anterior rib arcs, and clavicles with scapulae and humeri: three (s, s) layers."""
    posterior, anterior, other = Canvas(s), Canvas(s), Canvas(s)
    fractures = {side: f for f in patient.findings if f.observation == "Fracture" for side in both(f.side)}
    first, spacing, width = chest.apex + 0.005, 0.066 + 0.006 * u[9], 0.019 + 0.005 * u[10]
    broken = int(rng.integers(2, 5))
    where = int(rng.integers(8, 11))  # which of the 16 points of a rib
    p = np.linspace(0, np.pi / 2, 16)
    for side, sign in SIDES.items():
        rib = np.arange(10.0)[:, None]
        top, drop = first + spacing * rib, 0.045 + 0.007 * rib
        lateral = chest.outer(top + drop) + 0.006
        t, y = 0.035 + (lateral - 0.035) * np.sin(p), top + drop * (1 - np.cos(p)) - 0.014 * np.sin(2 * p)  # (10, 16)
        fracture = fractures.get(side)
        if fracture:
            t_broken, y_broken = t[broken : broken + 3], y[broken : broken + 3]
            t, y = np.delete(t, range(broken, broken + 3), 0), np.delete(y, range(broken, broken + 3), 0)
        posterior.band(t, y, sign, width, 85, 120)
        if fracture and fracture.severity == "displaced":  # the lateral fragment drops by more than the rib's width
            posterior.band(t_broken[:, :where], y_broken[:, :where], sign, width, 190, 255)
            posterior.band(t_broken[:, where:] - 0.010, y_broken[:, where:] + 0.033, sign, width, 190, 255)
        elif fracture:  # healing: a bulb of callus
            posterior.band(t_broken, y_broken, sign, width, 110, 150)
            for k in range(3):
                posterior.disc(t_broken[k, where], y_broken[k, where], sign, 0.030, 255, flat=0.75)
        lateral, fall = lateral[1:8], 0.085 + 0.012 * rib[1:8]
        t, y = 0.13 + (lateral - 0.13) * np.cos(p), (top + drop)[1:8] + fall * np.sin(p)
        anterior.band(t, y, sign, width * 1.15, 150, 200)
        v = np.linspace(0, 1, 12)
        collar = chest.apex + 0.03 + 0.03 * u[11]
        other.band(0.025 + 0.33 * v, collar - 0.055 * v + 0.012 * np.sin(2 * np.pi * v), sign, 0.022, 150, 200)
        medial = 0.355 if patient.view == "PA" else 0.30  # AP: the shoulder blades lie over the lungs
        blade = np.array([(0.46, 0.13), (medial + 0.03, 0.15), (medial, 0.24), (medial + 0.04, 0.42), (0.42, 0.26)])
        other.pen.polygon(other.points(blade[:, 0], blade[:, 1], sign), fill=45, outline=110, width=3)
        other.disc(0.455, 0.175, sign, 0.036, 120)
        other.line(np.array([0.465, 0.49]), np.array([0.18, 0.5]), sign, 0.035, 120)
    return posterior.layer(0.0025), anterior.layer(0.004), other.layer(0.004)


AIRSPACE = ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")


def zone_centre(chest: Anatomy, side: str, zone: str) -> tuple[float, float]:
    """(t, y) in the middle of what is seen of a lung zone, between mediastinum and chest wall."""
    floor = chest.domes[side]
    y = chest.apex + {"upper": 0.22, "mid": 0.56, "lower": 0.80}[zone] * (floor - chest.apex)
    inner, outer = float(chest.inner(np.array(y), side)), float(chest.outer(np.array(y)))
    return inner + 0.55 * (outer - inner), y


def draw_airspace(
    finding: Finding,
    chest: Anatomy,
    attenuation: np.ndarray,
    air: dict[str, np.ndarray],
    vessels: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """What fills the lung, each with its own look. Returns the new attenuation, (s, s).

    Consolidation: a dense lobe, sharp at its fissures, with dark air bronchograms. Pneumonia: a cluster of fluffy
    blobs. Lung opacity: a smooth ground-glass haze. Edema: bat wings and Kerley lines. Atelectasis: bands at a base.
    """
    s = len(attenuation)
    x, y = axes(s)
    name = finding.observation
    canvas = Canvas(s)
    if name == "Lung Lesion":
        sides = both(finding.side) * (3 if finding.side == "bilateral" else 1)
        for k, side in enumerate(sides):
            zone = ZONES[k // 2] if finding.side == "bilateral" else zone_of(finding.place)
            t0, y0 = zone_centre(chest, side, zone)
            t0, y0 = t0 + rng.uniform(-0.03, 0.03), y0 + rng.uniform(-0.03, 0.03)
            canvas.disc(t0, y0, SIDES[side], finding.amount * rng.uniform(0.95, 1.1), 255, flat=rng.uniform(0.85, 1.1))
        lungs = sum(np.minimum(2 * air[side], 1) for side in set(sides))
        return attenuation + (0.60 if finding.kind == "mass" else 0.55) * canvas.layer(0.005) * lungs
    for side in both(finding.side):
        t, sign, inside = SIDES[side] * x, SIDES[side], air[side]
        if name == "Lung Opacity":
            t0, y0 = zone_centre(chest, side, zone_of(finding.place))
            tall = finding.amount * rng.uniform(1.0, 1.25)
            haze = np.exp(-(((t - t0) / finding.amount) ** 2) - ((y - y0) / tall) ** 2)
            attenuation = attenuation + 0.52 * inside * haze
        elif name == "Edema":
            hilum_y = chest.carina + 0.08
            wings = np.exp(-(((t - 0.15) / 0.10) ** 2) - ((y - hilum_y) / 0.17) ** 2)
            for y0 in chest.domes[side] + np.arange(-0.10, 0.09, 0.026):  # Kerley B: short lines at the wall
                wall = float(chest.outer(np.array(y0)))
                canvas.line(np.array([wall - 0.055, wall - 0.004]), np.array([y0 + 0.004, y0]), sign, 0.004, 255)
            amount = finding.amount
            attenuation = attenuation + inside * (0.62 * amount * wings + 0.12 * amount)
        elif name == "Consolidation":
            zone, span = zone_of(finding.place), chest.domes[side] - chest.apex
            tilt = rng.uniform(0.02, 0.10)
            upper = {"upper": -1.0, "mid": 0.46, "lower": 0.60}[zone]
            lower = {"upper": 0.46, "mid": 0.76, "lower": 2.0}[zone]
            top = chest.apex + upper * span - (tilt if zone == "lower" else 0) * (t - 0.2) / 0.2
            bottom = chest.apex + lower * span - (tilt if zone != "lower" else 0) * (t - 0.2) / 0.2
            filled = edge(y - top, 0.012) * edge(bottom - y, 0.012) * inside
            if zone == "mid":  # the middle lobe and the lingula lie against the heart and leave the wall free
                filled = filled * edge(chest.half_thorax - 0.05 - t, 0.05)
            attenuation = attenuation + finding.amount * filled * (0.66 - 0.90 * vessels)
        elif name == "Pneumonia":
            t0, y0 = zone_centre(chest, side, zone_of(finding.place))
            for dt, dy, r in zip(
                rng.normal(0, 0.045, 15), rng.normal(0, 0.05, 15), rng.uniform(0.012, 0.03, 15), strict=True
            ):
                canvas.disc(t0 + dt, y0 + dy, sign, r, int(rng.integers(150, 256)), flat=rng.uniform(0.7, 1.2))
            attenuation = attenuation + 0.62 * canvas.layer(0.007) * np.minimum(1.2 * inside, 1)
            canvas = Canvas(s)
        elif name == "Atelectasis":
            for k in range(2 if finding.severity == "mild" else 4):
                y0 = chest.domes[side] - 0.035 - 0.038 * k + rng.uniform(-0.006, 0.006)
                inner, outer = float(chest.inner(np.array(y0), side)), float(chest.outer(np.array(y0)))
                left, right = inner + (outer - inner) * rng.uniform((0.05, 0.6), (0.25, 0.95))
                slope = rng.uniform(-0.03, 0.03)
                v = np.linspace(0, 1, 8)
                canvas.band(left + (right - left) * v, y0 + slope * v - 0.012 * v * (1 - v), sign, 0.013, 255, 255)
    strength = 0.30 if name == "Edema" else 0.5
    return attenuation + strength * canvas.layer(0.002) * (air["left"] + air["right"])


def draw_pleura(
    finding: Finding, chest: Anatomy, attenuation: np.ndarray, air: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Fluid with a meniscus that climbs the wall, or a rind of thickened pleura. Returns attenuation, (s, s)."""
    s = len(attenuation)
    x, y = axes(s)
    for side in both(finding.side):
        t, inside = SIDES[side] * x, air[side]
        wall = chest.outer(y) - t
        if finding.observation == "Pleural Effusion":
            bottom = chest.domes[side] + chest.angle_drop
            climb = {"small": 0.13, "moderate": 0.11, "large": 0.12}[finding.severity]
            level = bottom - finding.amount + climb * (1 - np.clip(t / chest.half_thorax, 0, 1) ** 2.2)
            fluid = edge(y - level, 0.035) * np.minimum(1.25 * inside, 1)
            dense = np.maximum(attenuation, 1.10 + 0.15 * smooth((y - level) / 0.2))
            attenuation = attenuation + 0.88 * fluid * (dense - attenuation)  # vessels drown in fluid
            continue
        rind = finding.amount * (1 + 0.25 * np.sin(40 * y + rng.uniform(0, 6)) + 0.15 * np.sin(97 * y))
        if finding.place == "lateral":
            top = chest.apex + 0.20 + rng.uniform(0, 0.08)
            extent = edge(y - top, 0.05) * edge(top + rng.uniform(0.25, 0.32) - y, 0.05)
            plaque = edge(rind - wall, 0.010) * extent
        else:
            cap = np.minimum(wall, y - chest.apex - 0.25 * np.abs(t - chest.apex_t))
            plaque = edge(1.35 * rind - cap, 0.010) * edge(chest.apex + 0.14 - y, 0.05)
        attenuation = attenuation + 0.68 * plaque * np.minimum(1.4 * inside, 1)
        if finding.severity == "calcified":
            specks = texture_noise(s, rng) > 0.4
            attenuation = attenuation + 0.7 * plaque * specks * (inside > 0.3)
    return attenuation


def texture_noise(s: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise with blobs of about a sixtieth of the picture, (s, s) float32."""
    noise = rng.standard_normal((64, 64)).astype(np.float32)
    return np.asarray(Image.fromarray(noise).resize((s, s), Image.Resampling.BICUBIC))


def draw_devices(devices: list[Finding], chest: Anatomy, s: int, rng: np.random.Generator) -> np.ndarray:
    """Tubes and lines: attenuation to add, (s, s)."""
    canvas = Canvas(s)
    v = np.linspace(0, 1, 24)

    def curve(knots: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """A quadratic or cubic Bezier curve through the first and the last of 3 or 4 knots."""
        points = np.array(knots)[:, None, :] * np.ones((1, 24, 1))
        while len(points) > 1:
            points = points[:-1] * (1 - v[:, None]) + points[1:] * v[:, None]
        return points[0, :, 0], points[0, :, 1]

    svc = -0.05  # the superior vena cava lies right of the spine whatever the side of entry
    atrium = chest.heart[1]
    for device in devices:
        sign = SIDES.get(device.side or "left")
        if device.kind == "endotracheal tube":
            tip = chest.carina - rng.uniform(0.03, 0.06)
            canvas.line(np.array([0.012, 0.004]), np.array([-0.02, tip]), 1, 0.016, 130)
            canvas.line(np.array([0.018, 0.010]), np.array([-0.02, tip]), 1, 0.008, 255)
        elif device.kind == "central venous catheter":
            tip = (svc, chest.carina + rng.uniform(0.03, 0.08))
            collar = chest.apex + 0.03
            if rng.random() < 0.5:  # internal jugular: down from the neck
                t, y = curve([(sign * 0.13, -0.02), (sign * 0.10, 0.12), (svc, collar + 0.02), tip])
            else:  # subclavian: in from the shoulder
                t, y = curve([(sign * 0.34, collar + 0.07), (sign * 0.18, collar - 0.05), (svc, collar - 0.01), tip])
            canvas.line(t, y, 1, 0.011, 220)
        else:
            box_t, box_y = sign * rng.uniform(0.24, 0.27), chest.apex + rng.uniform(0.09, 0.12)
            canvas.disc(box_t, box_y, 1, 0.052, 255, flat=0.85)
            leads = [(svc, chest.apex + 0.02), (svc - 0.03, atrium - 0.15)]
            for end in ((svc + 0.005, atrium - 0.02), (0.45 * chest.half_thorax, chest.domes["left"] - 0.01)):
                canvas.line(*curve([(box_t - sign * 0.03, box_y - 0.03), leads[0], leads[1]]), 1, 0.007, 230)
                canvas.line(*curve([leads[1], (svc - 0.02, end[1] + 0.02), end]), 1, 0.007, 230)
                canvas.disc(*end, 1, 0.007, 255)
    return 1.6 * canvas.layer(0.0015)
