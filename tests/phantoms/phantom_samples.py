"""Phantoms for a test: sampled truth, and one chest drawn with the findings asked for."""

import dataclasses

import numpy as np

from phantoms import drawing, truth

SAMPLES = [truth.truth(7, index) for index in range(2000)]


NORMAL = truth.Patient("PA", 0.45, ())


def drawn(*findings, patient=NORMAL, index=0, size=256):
    """The same chest (seed 3) with these findings, as float so that differences do not wrap around."""
    return drawing.draw(dataclasses.replace(patient, findings=findings), truth.streams(3, index)[1], size).astype(float)


def sampled(observation, index=0, **wanted):
    """A finding of this observation as the data set would sample it, with the wanted side, place or severity."""
    rng = np.random.default_rng(index)
    for _ in range(500):
        finding, _ = truth.sample_finding(observation, "PA", rng)
        if all(getattr(finding, name) == value for name, value in wanted.items()):
            return finding
    raise LookupError(f"{observation} with {wanted} is never sampled")


def half(image, side):
    """The patient's left is on the right of the picture."""
    middle = image.shape[1] // 2
    return image[:, middle:] if side == "left" else image[:, :middle]
