"""`python edit.py` as a user types it, and what an edit keeps."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edit
import flow
import sample
from common import errors
from common.sampling import SOLVERS
from phantoms.dataset import phantom

ROOT = Path(__file__).parent.parent


def run(*arguments, cwd=None):
    command = [sys.executable, ROOT / "edit.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def films(count):
    return np.stack([np.asarray(Image.fromarray(phantom(1, k, 256).image).resize((64, 64))) for k in range(count)])


def test_an_edit_of_full_strength_is_a_drawing_and_of_none_is_the_autoencoder(micro):
    squares = films(2)
    prompts = ["Small effusion.", "Edema."]
    drawn = sample.draw(micro, prompts, [3, 4], steps=4)
    assert np.abs(edit.edit(micro, squares, prompts, [3, 4], strength=1.0, steps=4).astype(int) - drawn).max() <= 1
    with torch.inference_mode():
        rebuilt = micro.vae.decode(micro.vae.encode(micro.vae.preprocess(torch.from_numpy(squares))))
    still = edit.edit(micro, squares, prompts, [3, 4], strength=1e-6, steps=4).astype(int)
    assert np.abs(still - micro.vae.postprocess(rebuilt).numpy()).max() <= 1


def test_an_edit_keeps_what_lies_outside_the_mask_to_the_byte(micro):
    squares = films(2)
    masks = np.zeros((2, 64, 64), dtype=bool)
    masks[:, 20:30, 5:40] = True  # lies in the latents of row 1, columns 0 to 2
    edited = edit.edit(micro, squares, ["Edema."] * 2, [3, 4], strength=0.8, masks=masks, steps=4)
    changed = edited != squares
    assert not changed[:, :16].any() and not changed[:, 32:].any() and not changed[:, :, 48:].any()
    assert changed[:, 20:28, 2:38].mean() > 0.5
    whole = edit.edit(micro, squares, ["Edema."] * 2, [3, 4], strength=0.8, masks=np.ones_like(masks), steps=4)
    assert np.array_equal(whole, edit.edit(micro, squares, ["Edema."] * 2, [3, 4], strength=0.8, steps=4))


def test_a_strip_ends_at_the_pictures_of_either_prompt(micro):
    a, b = "Small effusion.", "A much longer prompt: large right pneumothorax."
    for guidance in (1.0, 2.0):
        strip = edit.between(micro, (a, b), 5, [0, 0.25, 0.5, 0.75, 1], steps=4, guidance=guidance, batch=2).astype(int)
        ends = sample.draw(micro, [a, b], [5, 5], steps=4, guidance=guidance)
        assert np.abs(strip[[0, -1]] - ends).max() <= 1
        steps = np.abs(np.diff(strip, axis=0)).mean(axis=(1, 2))
        assert (steps > 0).all() and steps.max() < np.abs(strip[-1] - strip[0]).mean()


def test_a_mask_is_a_box_in_the_films_pixels_or_a_picture_of_its_size(tmp_path):
    film, drawn = Image.new("L", (200, 100)), np.zeros((100, 200), np.uint8)
    drawn[25:75, 100:150] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    box = edit.mask_of((100, 25, 150, 75), film, 64)
    assert np.array_equal(box, edit.mask_of(tmp_path / "mask.png", film, 64))
    rows, columns = np.nonzero(box)  # 200 x 100 becomes 64 x 32, under 16 rows of padding
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 39, 32, 47)


def test_edits_and_strips_are_written_as_sheets(micro_folder, tmp_path):
    Image.fromarray(phantom(1, 0, 256).image).save(tmp_path / "film.png")
    flags = ("--weights", micro_folder, "--steps", 3, "--out", "x.png")
    for arguments in (("film.png", "Edema.", "--mask", "0,0,99,99"), ("--between", 3, "A.", "B.")):
        result = run(*arguments, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        sheet = Image.open(tmp_path / "x.png")
        assert sheet.width == 3 * (64 + 6) + 6 and sheet.height > 64
        assert result.stdout.splitlines()[0] == "x.png" and "not a medical device" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["required: FILE, PROMPT"]),
        (("good.png",), ["required: PROMPT"]),
        (("absent.png", "Edema."), ["absent.png: no such file"]),
        (("text.png", "Edema."), ["text.png", "not an image"]),
        (("good.png", " "), ["prompt is empty"]),
        (("good.png", "effusion " * 200), ["the prompt has", "shorten"]),
        (("good.png", "Edema.", "Normal."), ["Normal."]),
        (("good.png", "Edema.", "--strength", 0), ["--strength 0"]),
        (("good.png", "Edema.", "--size", 4096), ["--size 4096", "try 128"]),
        (("good.png", "Edema.", "--mask", "0,0,80,10"), ["--mask 0,0,80,10", "64 x 64"]),
        (("good.png", "Edema.", "--mask", "9,9,9,20"), ["--mask 9,9,9,20", "x0,y0,x1,y1"]),
        (("film.png", "Edema.", "--mask", "0,0,2,2"), ["--mask 0,0,2,2", "nothing"]),
        (("film.png", "Edema.", "--mask", "good.png"), ["--mask good.png", "does not fit", "640 x 640"]),
        (("good.png", "Edema.", "--out", "x.jpg"), ["--out x.jpg", "x.png"]),
        (("good.png", "Edema.", "--out", "good.png"), ["--out good.png", "no command here made it"]),
        (("--between", 1, "A.", "B."), ["--between 1"]),
        (("--between", 3, "A."), ["required: PROMPT"]),
        (("--between", 3, "", "B."), ["prompt is empty"]),
        (("--between", 3, "A.", "B.", "--mask", "0,0,9,9"), ["--mask", "strip"]),
        (("--between", 3, "A.", "B.", "--strength", 0.5), ["--strength", "strip"]),
    ],
)
def test_bad_input_is_one_line_that_names_it(micro_folder, tmp_path, arguments, words, monkeypatch, capsys):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("L", (64, 64)).save(tmp_path / "good.png")
    Image.new("L", (640, 640)).save(tmp_path / "film.png")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edit.py", *map(str, arguments), "--weights", str(micro_folder)])
    with pytest.raises(SystemExit) as left:
        errors.run(edit.main)
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in words), said.err
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written


def test_help_and_a_typing_error_do_not_wait_for_torch():
    for arguments, code in ((("--help",), 0), (("x.png", "Edema.", "--strength", "0"), 2)):
        words = [sys.executable, "-X", "importtime", ROOT / "edit.py", *arguments]
        result = subprocess.run(words, capture_output=True, text=True)
        assert result.returncode == code and "torch" not in result.stderr, result.stderr


# ---- what an edit does to a velocity -----------------------------------------------------------------------------


def test_a_held_walk_is_on_the_known_line_outside_the_mask_at_every_step():
    """And, by Euler, it is what RePaint does: walk, then put the known latents, noised to the step's time, back in."""
    data, noise = torch.randn(2, 2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 1:3, :2] = 1
    times = torch.tensor([0.7, 0.6, 0.4, 0.3, 0.1, 0.0])

    def velocity(x, t):
        return (3 * x + t.view(-1, 1, 1, 1)).sin()

    def line(t):
        return flow.interpolate(data, noise, flow.fill(t, data))

    held = edit.hold(velocity, data, noise, mask)
    for solve in (getattr(flow, name) for name in SOLVERS):
        seen = []

        def noted(x, t, seen=seen):
            seen.append((x, t[0].item()))
            return held(x, t)

        seen.append((solve(noted, line(0.7), times), 0.0))
        for x, t in seen:
            torch.testing.assert_close(x * (1 - mask), line(t) * (1 - mask), atol=1e-5, rtol=0)
        assert ((seen[-1][0] - data).abs() * mask).max() > 0.1
    x = line(0.7)
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x = x + (t_next - t) * velocity(x, flow.fill(t, x))
        x = mask * x + (1 - mask) * line(t_next)
    torch.testing.assert_close(flow.euler(held, line(0.7), times), x, atol=1e-5, rtol=0)


def test_a_walk_from_a_time_visits_it_and_what_lies_below(micro):
    noise, seen = torch.zeros(1, 16, 4, 4), []

    def watch(clean, t):
        seen.append(t)

    still = lambda x, t: torch.zeros_like(x)  # noqa: E731
    for since in (0.7, 1.0):
        seen.clear()
        sample.solve(micro, lambda rows: (still, still, noise), 1, steps=9, watch=watch, since=since)
        every = sample.schedule("ab2", 9)[:-1].tolist()
        assert seen == pytest.approx([since] + [t for t in every if t < since])
