"""The lessons run, the committed notebooks are what their sources make, and every check tells right from wrong."""

import base64
import io
import os
import re
from pathlib import Path

import pytest

NEEDED = ("jupytext", "nbclient", "ipykernel", "matplotlib")
if os.environ.get("CI") != "true":  # CI must not skip in silence
    for package in NEEDED:
        pytest.importorskip(package, reason=f"{package} is missing: pip install -e '.[workshop]'")

import matplotlib

matplotlib.use("Agg")

import numpy as np
from PIL import Image

import notebooks
from checks import NotYet
from notebooks import LESSONS, lesson_source, read_cells, solutions, title
from phantoms.dataset import phantom

WRONG = Path(__file__).parent / "wrong"
LIMIT = 600  # seconds a lesson may take, of one core's time


def exercises(name):
    return [title(cell) for cell in lesson_source(name).cells if title(cell).startswith("exercise:")]


def check_cell(name, exercise):
    """The source of the cell that looks at this exercise: the next code cell."""
    code = [cell for cell in lesson_source(name).cells if cell.cell_type == "code"]
    return code[[title(cell) for cell in code].index(exercise) + 1].source


def wrong_answers(name, exercise):
    return [cell.source for cell in read_cells(WRONG / f"{name}.py").cells if title(cell) == exercise]


EXERCISES = [(name, exercise) for name in LESSONS for exercise in exercises(name)]


@pytest.fixture(scope="module")
def setup():
    """name -> what the lesson's cells titled `setup` define. An answer and its check need no more than that."""
    kept = {}

    def run_setup(name):
        if name not in kept:
            kept[name] = {}
            for cell in lesson_source(name).cells:
                if title(cell) == "setup":
                    exec(cell.source, kept[name])
        return dict(kept[name])

    return run_setup


def run_answer(names, answer, check):
    exec(answer, names)
    exec(check, names)


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_notebook_is_what_its_source_makes(name):
    assert notebooks.difference(name) is None


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_notebook_is_small_and_shows_pictures_and_no_error(name):
    path = notebooks.HERE / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1e6
    assert '"image/png"' in text or name == "7_real_weights"
    assert '"output_type": "error"' not in text


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_exercises_and_an_experiment_and_imports_no_tests(name):
    source = (notebooks.HERE / f"{name}.py").read_text(encoding="utf-8")
    assert exercises(name)
    assert re.search(r"^# ## Experiment", source, re.M), "one experiment whose answer is open"
    assert not re.search(r"^\s*(import|from) (tests|micro|published)\b", source, re.M)
    assert solutions(name).keys() == set(exercises(name))


@pytest.mark.parametrize(("name", "exercise"), EXERCISES)
def test_a_check_carries_the_exercises_name(name, exercise):
    function = exercise.removeprefix("exercise: ").replace(" ", "_")
    assert re.search(rf"\bcheck\.{function}\(", check_cell(name, exercise)), check_cell(name, exercise)


@pytest.mark.parametrize(("name", "exercise"), EXERCISES)
def test_a_check_takes_the_solution_and_tells_wrong_answers_apart(name, exercise, setup):
    check = check_cell(name, exercise)
    run_answer(setup(name), solutions(name)[exercise], check)

    gap = next(cell.source for cell in lesson_source(name).cells if title(cell) == exercise)
    said = set()
    for answer in [gap, *wrong_answers(name, exercise)]:
        with pytest.raises(NotYet) as complaint:
            run_answer(setup(name), answer, check)
        said.add(str(complaint.value))
        assert ("not solved yet" in str(complaint.value)) == (answer == gap), complaint.value
    assert len(said) == 1 + len(wrong_answers(name, exercise)) >= 3, said


def test_a_notebook_that_is_not_its_sources_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "HERE", tmp_path)
    (tmp_path / "1_a.py").write_text("# %%\nprint(1)\n", encoding="utf-8")
    assert "does not exist" in notebooks.difference("1_a")
    (tmp_path / "1_a.ipynb").write_text(notebooks.nbformat.writes(lesson_source("1_a")), encoding="utf-8")
    assert notebooks.difference("1_a") is None
    (tmp_path / "1_a.py").write_text("# %%\nprint(2)\n", encoding="utf-8")
    assert "cell 0" in notebooks.difference("1_a")
    (tmp_path / "1_a.py").write_text("# %%\nprint(1)\n\n# %%\nprint(2)\n", encoding="utf-8")
    assert "2" in notebooks.difference("1_a")


@pytest.mark.slow
def test_the_same_source_makes_the_same_notebook(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "solutions"):
        folder.mkdir(exist_ok=True)
        (folder / "1_a.py").write_text(
            "# %% exercise: a\nx = 1\nfor _ in range(50):\n    print(x, flush=True)\n", encoding="utf-8"
        )
    monkeypatch.setattr(notebooks, "HERE", tmp_path)
    monkeypatch.setattr(notebooks, "COSTS", "print([0.0, 0.0])")
    notebooks.make("1_a")
    once = (tmp_path / "1_a.ipynb").read_bytes()
    notebooks.make("1_a")
    assert (tmp_path / "1_a.ipynb").read_bytes() == once


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_with_its_solutions(name, monkeypatch):
    monkeypatch.setenv("STEPS", "12")  # of each training: CI has other things to do
    costs = notebooks.execute(notebooks.solve(lesson_source(name), solutions(name)))
    assert costs["cpu"] < LIMIT
    assert not costs["memory"] > 4  # nan on Windows


@pytest.mark.slow
def test_an_unsolved_lesson_stops_at_a_clear_message():
    """One of them: what each check says of a gap is looked at above, and the cells before it run with the solutions."""
    assert re.match(r"NotYet: Exercise 1 is not solved yet: .{10,}", notebooks.first_complaint(LESSONS[0]))


def test_a_film_keeps_its_greys_beside_coloured_lines():
    """More than a palette holds: by median cut some pixels of the film are 7 levels off, where a reader looks."""
    film = np.hstack([phantom(1, index).image for index in range(4)])
    fade, lines = np.linspace(0, 255, film.shape[1]).astype(np.uint8), np.full((20, film.shape[1], 3), 255, np.uint8)
    lines[:10, :, 0], lines[10:, :, 2] = fade, fade
    file = io.BytesIO()
    Image.fromarray(np.vstack([np.repeat(film[..., None], 3, axis=-1), lines])).save(file, format="PNG")
    few = notebooks.fewer_colours(base64.b64encode(file.getvalue()).decode())
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(few))).convert("RGB"))[: len(film)]
    assert np.abs(kept.astype(int) - film[..., None]).max() <= 2
