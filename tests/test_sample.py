"""`python sample.py` as a user types it: pictures, reports, and one-line refusals."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edit
import flow
import sample
from common import errors
from common.images import load_image
from common.sampling import SOLVERS
from guided import guided_velocity
from inside import run_inside
from phantoms.dataset import phantom
from vae import VAE
from weights import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parent.parent


def run(*arguments, cwd=None):
    command = [sys.executable, ROOT / "sample.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def refused(result, *words):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0]


def test_draws_a_picture_and_prints_its_path(micro_folder, tmp_path):
    result = run("Small effusion.", "--weights", micro_folder, "--steps", 4, "--out", "x.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "x.png" and "not a medical device" in result.stdout
    assert Image.open(tmp_path / "x.png").size == (64, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_refusal_is_what_a_user_sees(tmp_path):
    refused(run(cwd=tmp_path), "prompt", "--image")


def test_several_pictures_become_a_labelled_grid(micro_folder, tmp_path):
    out = tmp_path / "grid.png"
    flags = ("--weights", micro_folder, "--steps", 3, "--n", 2, "--size", 32, "--out", out)
    result = run_inside(sample.main, "Small effusion.", "Edema.", *flags)
    assert result.returncode == 0, result.stderr
    sheet = np.asarray(Image.open(out).convert("L"))
    checkpoint = sample.load_model(micro_folder, "cpu", torch.float32)
    prompts = ["Small effusion.", "Small effusion.", "Edema.", "Edema."]
    for picture in sample.draw(checkpoint, prompts, [0, 1, 0, 1], 32, steps=3):
        windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)
        assert (np.abs(windows.astype(int) - picture).max(axis=(2, 3)) <= 1).sum() == 1


def test_reads_any_number_of_images(micro_folder, tmp_path):
    paths = []
    for name, size in (("wide.png", (300, 20)), ("dot.png", (1, 1)), ("cxr.jpg", (90, 110))):
        Image.new("L", size, 90).save(tmp_path / name)
        paths.append(tmp_path / name)
    result = run_inside(sample.main, "--image", *paths, "--weights", micro_folder, "--question", "What is seen?")
    assert result.returncode == 0, result.stderr
    assert all(str(path) in result.stdout for path in paths) and "not a medical device" in result.stdout


def test_a_picture_belongs_to_its_seed_and_prompt(micro):
    prompts = ["Small effusion.", "A much longer prompt: large right pneumothorax.", "Edema."]
    together = sample.draw(micro, prompts, [3, 4, 5], steps=4)
    alone = sample.draw(micro, prompts[1:2], [4], steps=4)
    # One grey level of slack: batches of different sizes round differently.
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(sample.draw(micro, prompts[:1], [8], steps=4)[0], together[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), ["prompt is empty"]),
        (("  \n",), ["prompt is empty"]),
        (("effusion " * 200,), ["the prompt has", "context", "shorten"]),
        (("Edema.", "--size", 100), ["--size 100", "multiple of 16", "try 96"]),
        (("Edema.", "--size", 4096), ["--size 4096", "try 128"]),
        (("Edema.", "--size", 0), ["--size 0", "at least 16"]),
        (("Edema.", "--steps", -3), ["--steps -3"]),
        (("Edema.", "--n", 0), ["--n 0"]),
        (("Edema.", "--guidance", "nan"), ["--guidance nan"]),
        (("Edema.", "--device", "cuda:77x"), ["--device cuda:77x"]),
        (("Edema.", "--weights", "nowhere"), ["nowhere", "weights folder"]),
        (("Edema.", "--out", "no/such/folder/x.png"), ["no/such/folder"]),
        (("Edema.", "--out", "."), ["--out ."]),
        (("--image", "absent.png"), ["absent.png"]),
        (("--image", "text.png"), ["text.png", "not an image"]),
        (("--image", "good.png", "broken.jpg"), ["broken.jpg"]),
        (("--image", "good.png", "--question", " "), ["--question is empty"]),
        (("Edema.", "--out", "x.jpg"), ["--out x.jpg", "x.png"]),
        # What would do nothing here.
        (("Edema.", "--question", "Where?"), ["--question", "--image FILE"]),
        *(
            (("--image", "good.png", flag, value), [flag, "drawing"])
            for flag, value in (
                ("--out", "x.png"),
                ("--steps", 9),
                ("--steps", "heun:3"),
                ("--guidance", 2),
                ("--size", 64),
            )
        ),
        (("--image", "good.png", "--seed", 7), ["--seed", "always the same", "--n"]),
        (("--image", "good.png", "--fast"), ["--fast", "drawing"]),
        (("Edema.", "--fast", "--steps", 9), ["--steps", "--fast has its own"]),
        (("Edema.", "--fast", "--guidance", 2), ["--guidance", "--fast has its own"]),
        (("Edema.", "--fast", "--adapter", "good.png"), ["--adapter", "--fast has its own"]),
        (("Edema.", "--fast"), ["fast.safetensors", "train.py --stage reflow --init"]),
    ],
)
def test_bad_input_is_one_line_that_names_it(micro_folder, tmp_path, arguments, words, monkeypatch, capsys):
    """In this process: thirty new ones would each import torch first."""
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("L", (64, 64)).save(tmp_path / "good.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "broken.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "broken.jpg").read_bytes()[:900])
    before = sorted(tmp_path.iterdir())
    if "--weights" not in arguments:
        arguments = (*arguments, "--weights", micro_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        errors.run(sample.main)
    said = capsys.readouterr()
    refused(subprocess.CompletedProcess(arguments, left.value.code, said.out, said.err), *words)
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written


def films(count):
    return [Image.fromarray(phantom(1, index, 256).image) for index in range(count)]


def test_sampled_reports_depend_on_no_other_report(micro):
    images, seeds = films(3), [[0, 1], [1, 7], [3, 2]]
    together = sample.read_often(micro, images, seeds, 1.5, 0.95, max_new_tokens=12)
    for image, row, reports in zip(images, seeds, together, strict=True):
        for seed, report in zip(row, reports, strict=True):
            assert sample.read_often(micro, [image], [[seed]], 1.5, 0.95, max_new_tokens=12) == [[report]]
    assert together == sample.read_often(micro, images, seeds, 1.5, 0.95, max_new_tokens=12, batch=3)
    assert len({report for reports in together for report in reports}) > 3


def test_a_report_read_aloud_grows_into_the_report(micro):
    [image] = films(1)
    pieces = list(sample.read_aloud(micro, image, max_new_tokens=30))
    assert "".join(pieces) == sample.read(micro, [image], max_new_tokens=30)[0]
    assert len(pieces) > 5


def test_weights_say_how_hard_to_follow_a_prompt(micro, tmp_path):
    """Their config's guidance is the default of every way to draw; a config without one means the published 2."""
    save_checkpoint(tmp_path / "weights", micro)
    file = tmp_path / "weights/config.json"
    values = json.loads(file.read_text())
    assert values["model"].pop("guidance") == 2.0
    file.write_text(json.dumps(values))
    (tmp_path / "weights/manifest.json").unlink()  # it says what the file was
    kept = load_checkpoint(tmp_path / "weights")
    for guidance in (2.0, 3.5):
        kept.model.config.guidance = guidance
        drawn = sample.draw(kept, ["Edema."], [1], steps=4)
        assert np.array_equal(drawn, sample.draw(micro, ["Edema."], [1], steps=4, guidance=guidance))
        strip = edit.between(kept, ("Edema.", "Mass."), 1, (0, 1), steps=4)
        assert np.array_equal(strip, edit.between(micro, ("Edema.", "Mass."), 1, (0, 1), steps=4, guidance=guidance))
        edited = edit.edit(kept, drawn, ["Mass."], [1], steps=4)
        assert np.array_equal(edited, edit.edit(micro, drawn, ["Mass."], [1], steps=4, guidance=guidance))
    kept.model.config.guidance = 2.0
    assert not np.array_equal(drawn, sample.draw(kept, ["Edema."], [1], steps=4))


def test_several_reports_are_printed_with_their_seeds_and_what_they_agree_on(micro_folder, tmp_path):
    Image.fromarray(phantom(1, 0, 256).image).save(tmp_path / "film.png")
    several = run_inside(
        sample.main, "--image", "film.png", "--weights", micro_folder, "--n", 2, "--seed", 7, cwd=tmp_path
    )
    assert several.returncode == 0, several.stderr
    assert "[seed 7] " in several.stdout and "[seed 8] " in several.stdout and "2 reports affirm:" in several.stdout
    assert "not a medical device" in several.stdout
    film = load_image(tmp_path / "film.png")
    report = sample.read_often(load_checkpoint(micro_folder), [film], [[8]])[0][0]
    assert f"[seed 8] {report}\n2 reports" in several.stdout


def test_help_and_a_typing_error_do_not_wait_for_torch():
    for arguments, code in ((("--help",), 0), (("Edema.", "--guidance", "inf"), 2)):
        words = [sys.executable, "-X", "importtime", ROOT / "sample.py", *arguments]
        result = subprocess.run(words, capture_output=True, text=True)
        assert result.returncode == code, result.stderr
        assert "argparse" in result.stderr and "torch" not in result.stderr and "numpy" not in result.stderr
        assert code or "not a medical device" in re.sub(r"\s+", " ", result.stdout)


def test_the_solvers_that_help_names_are_those_of_flow():
    """A solver is a function of `flow` that takes times."""
    of_flow = [name for name, function in vars(flow).items() if "times" in getattr(function, "__annotations__", {})]
    assert set(SOLVERS) <= set(of_flow) and sample.SOLVER in SOLVERS


def test_who_watches_a_drawing_is_shown_where_it_leads(micro):
    """On a straight line the estimate of the data is right at every time."""
    data, noise = torch.randn(2, 2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = []

    def straight(x, t):
        return noise - data

    def watch(clean, t):
        seen.append((clean, t))

    pictures = sample.solve(micro, lambda rows: (straight, straight, noise), 2, steps=5, watch=watch)
    assert [t for _, t in seen] == sample.schedule("ab2", 5)[:-1].tolist()
    for clean, _ in seen:
        torch.testing.assert_close(clean, data, atol=1e-5, rtol=0)
    with torch.inference_mode():
        expected = VAE.postprocess(micro.vae.decode(data)).numpy()
    assert np.abs(pictures.astype(int) - expected).max() <= 1


@torch.inference_mode()
def test_euler_draws_as_published(micro):
    """One velocity that asks at every time whether guidance is on, as the authors' sampler does."""
    ids, guidance, times = micro.encode("Small effusion."), 2.0, flow.timesteps(12)
    alone, paired = micro.model.read_prompt([ids]), micro.model.read_prompt([ids, None])
    velocity = guided_velocity(
        lambda x, t: micro.model.velocity(x, t, alone),
        lambda x, t: micro.model.velocity(torch.cat([x, x]), torch.cat([t, t]), paired).chunk(2),
        guidance,
        (0.4, 1.0),
    )
    noise = torch.randn(16, 4, 4, generator=torch.Generator().manual_seed(7))[None]
    published = VAE.postprocess(micro.vae.decode(flow.euler(velocity, noise, times)))
    drawn = sample.draw(micro, ["Small effusion."], [7], steps=12, solver="euler")
    assert np.array_equal(drawn, published.numpy())
    assert not np.array_equal(
        drawn, sample.draw(micro, ["Small effusion."], [7], steps=12, guidance=1.0, solver="euler")
    )


def test_every_solver_draws_the_same_picture_given_many_times(micro):
    def drawn(solver, steps):
        return sample.draw(micro, ["Small effusion."], [7], size=32, steps=steps, solver=solver).astype(int)

    exact = drawn("heun", 60)
    for solver, steps in (("euler", 300), ("ab2", 60)):
        assert np.abs(drawn(solver, steps) - exact).max() <= 2 < np.abs(drawn(solver, 4) - exact).max()


def test_a_film_is_read_as_the_weights_know_it(micro, monkeypatch):
    """The squares that reach the ViT: smaller than the square and white around it, or as large as it and black."""
    film, seen = Image.new("L", (40, 20), 128), {}
    for padding, scaling in ((255, "shrink"), (0, "fit")):
        vit = replace(micro.model.config.vit, padding=padding, scaling=scaling)
        monkeypatch.setattr(micro.model.config, "vit", vit)

        def generate(model, pixels, *_, key=scaling, vit=vit, **__):
            seen[key] = (pixels[0, 0] * vit.std + vit.mean) * 255
            return [[5]]

        monkeypatch.setattr(sample, "generate", generate)
        sample.read(micro, [film])
    for scaling, width, grey in (("shrink", 40, 255), ("fit", 64, 0)):
        inside = (seen[scaling] - 128).abs() < 0.5
        assert inside.sum() == width * width // 2 and (seen[scaling][~inside] - grey).abs().max() < 0.01
