"""The contrast an autoencoder keeps: of one that halves it, half; and what changes with a finding is the finding."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from common.files import SHIPPED
from phantoms.dataset import phantom
from phantoms.truth import KINDS, truth
from sample import load_model
from studies import autoencoder
from studies.autoencoder import OWN, contrast_kept, psnr, rounded, with_and_without
from vae import VAE


class Halves(torch.nn.Module):
    """An autoencoder that keeps half of everything."""

    preprocess = staticmethod(VAE.preprocess)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, pixels):
        return pixels

    def decode(self, latents):
        return 0.5 * latents


def test_every_kind_is_named_and_half_of_its_contrast_is_half():
    seen = {finding.kind for index in range(400) for finding in truth(1, index).findings}
    assert seen == set(KINDS)
    kept = contrast_kept(Halves(), seed=1, count=1)
    assert list(kept) == list(KINDS)
    assert all(value == pytest.approx(0.5, abs=1e-5) for value in kept.values()), kept


def test_with_and_without_a_finding_differ_there_alone():
    index = next(i for i in range(1000) if [f.kind for f in truth(1, i).findings] == ["pacemaker"])
    shown, without = with_and_without(1, index, "pacemaker", 256)
    changed = np.abs(shown.astype(int) - without) > OWN
    assert 0.002 < changed.mean() < 0.05
    assert with_and_without(1, index, "nodule", 256) is None


def test_psnr_of_half_the_picture():
    """Black stays black, a grey value g becomes 127.5 + (g - 127.5) / 2 on the scale of -1 to 1."""
    picture = np.full((1, 16, 16), 255, np.uint8)
    error = 255 - round(127.5 + 63.75)
    assert psnr(rounded(Halves(), picture), picture) == pytest.approx(20 * np.log10(255 / error))


def test_real_films_are_rebuilt_and_shown(tmp_path, monkeypatch, capsys):
    for index in range(3):
        Image.fromarray(phantom(1, index, 256).image).save(tmp_path / f"{index}.png")
    rows = "".join(f"{index}.png,Normal.,validate\n" for index in range(3))
    (tmp_path / "metadata.csv").write_text("image,report,split\n" + rows)
    sheet = tmp_path / "rebuilt.png"
    flags = ["--data", tmp_path, "--split", "validate", "--out", sheet]
    monkeypatch.setattr(sys, "argv", ["autoencoder", *map(str, flags)])
    autoencoder.main()
    vae = load_model(SHIPPED, "cpu", torch.float32).vae
    images = np.stack([phantom(1, index, 256).image for index in range(3)])
    assert f"3 films at 256 px: PSNR {psnr(rounded(vae, images), images):.2f} dB" in capsys.readouterr().out
    assert Image.open(sheet).height > 512
