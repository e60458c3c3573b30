"""Makes the workshop's notebooks from their sources, runs them, and checks that they are what the sources make.

    python workshop/notebooks.py               make all: run each lesson with its solutions, write the unsolved notebook
    python workshop/notebooks.py 1 2           these lessons only
    python workshop/notebooks.py --check       compare the notebooks with the sources; nothing is run
    python workshop/notebooks.py --unsolved 1  run lesson 1 as a newcomer finds it, up to the first exercise

A lesson is `N_name.py` in jupytext's percent format. A cell titled `exercise: ...` has a gap, which the cell of the
same title in `solutions/N_name.py` fills. The notebook keeps the gap, with the pictures of a run without gaps. Cells
titled `setup` are all that an answer and its check need to run.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import jupytext  # noqa: E402
import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from nbclient.exceptions import CellExecutionError  # noqa: E402
from nbformat import NotebookNode  # noqa: E402
from PIL import Image  # noqa: E402

from common import arguments  # noqa: E402
from common.errors import UserError, run  # noqa: E402
from common.files import write_text  # noqa: E402

LESSONS = sorted(path.stem for path in HERE.glob("[0-9]_*.py"))
LONGEST = 20 * 60  # seconds a cell may take on a machine that is busy with something else
COLOURS = 256  # of a committed picture: a palette makes it a third as large
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
COSTS = """
import json, os, torch
from common.clock import memory_used
print(json.dumps([sum(os.times()[:4]), memory_used(torch.device("cpu"))]))
"""


def lesson_source(name: str) -> NotebookNode:
    """The lesson as it is committed, gaps and all, without outputs. The same source gives the same bytes."""
    return read_cells(HERE / f"{name}.py")


def read_cells(path: Path) -> NotebookNode:
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def title(cell: NotebookNode) -> str:
    """What stands behind `# %%` of a code cell, "" for a cell without title or for text."""
    return cell.metadata.get("title", "") if cell.cell_type == "code" else ""


def solutions(name: str) -> dict[str, str]:
    """Title of an exercise -> the source that fills its gap."""
    return {title(cell): cell.source for cell in read_cells(HERE / "solutions" / f"{name}.py").cells if title(cell)}


def solve(lesson: NotebookNode, answers: dict[str, str]) -> NotebookNode:
    """A copy of the lesson with each exercise replaced by its answer. Raises UserError if one has none."""
    lesson = nbformat.from_dict(lesson)
    for cell in lesson.cells:
        if title(cell).startswith("exercise:"):
            if title(cell) not in answers:
                raise UserError(f"{title(cell)!r} has no solution; add a cell of this title to workshop/solutions")
            cell.source = answers[title(cell)]
    return lesson


def execute(lesson: NotebookNode) -> dict[str, float]:
    """Run the cells in place, in a kernel of their own that stands in workshop/.

    Returns seconds (all, and to the first picture), CPU seconds and the memory's peak in GB. Raises CellExecutionError
    where a cell raises.
    """
    began, pictures = time.perf_counter(), []

    def after_cell(cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            pictures.append(time.perf_counter() - began)

    lesson.cells.append(nbformat.v4.new_code_cell(COSTS, id="costs"))
    client = NotebookClient(
        lesson,
        timeout=LONGEST,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,
        on_cell_executed=after_cell,
    )
    try:
        client.execute()
    finally:
        costs = lesson.cells.pop()
    cpu, memory = json.loads(costs.outputs[0].text)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "first picture": min(pictures, default=seconds), "cpu": cpu, "memory": memory}


def keep_outputs(lesson: NotebookNode, solved: NotebookNode) -> None:
    """Give the unsolved lesson the outputs of the solved run, without what changes from run to run."""
    for cell, ran in zip(lesson.cells, solved.cells, strict=True):
        if cell.cell_type != "code":
            continue
        cell.execution_count = ran.execution_count
        cell.outputs = []
        for output in ran.outputs:
            if output.output_type == "stream":
                add_text(cell.outputs, output)
                continue
            output.metadata.clear()
            if "image/png" in output.data:
                output.data["image/png"] = fewer_colours(output.data["image/png"])
            cell.outputs.append(output)


def add_text(outputs: list[NotebookNode], text: NotebookNode) -> None:
    """What a cell printed, in one piece: how a kernel cuts it depends on the time. Warnings stay out."""
    if text.name == "stderr":
        return
    if outputs and outputs[-1].output_type == "stream":
        outputs[-1].text += text.text
    else:
        outputs.append(text)


def fewer_colours(png: str) -> str:
    """A base64 PNG with a palette of COLOURS, and without the name of the program that made it."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"]).convert("RGB")
    file = io.BytesIO()
    # Not the default method: it puts dark specks into a grey film, and a film is looked at for specks.
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        file, format="PNG", optimize=True
    )
    return base64.b64encode(file.getvalue()).decode()


def make(name: str) -> str:
    """Write `name`.ipynb. Returns a line that says what the run cost."""
    lesson = lesson_source(name)
    solved = solve(lesson, solutions(name))
    costs = execute(solved)
    keep_outputs(lesson, solved)
    text = nbformat.writes(lesson) + "\n"
    write_text(HERE / f"{name}.ipynb", text)
    return (
        f"{name}: {costs['seconds']:.0f} s, first picture after {costs['first picture']:.0f} s, CPU {costs['cpu']:.0f}"
        f" s, memory {costs['memory']:.1f} GB, {len(text.encode()) / 1e3:.0f} kB"
    )


def difference(name: str) -> str | None:
    """In what the committed notebook is not what the source makes; None if it is."""
    path = HERE / f"{name}.ipynb"
    if not path.exists():
        return f"{name}.ipynb does not exist"
    cells = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4).cells
    source = lesson_source(name).cells
    if len(cells) != len(source):
        return f"{name}.ipynb has {len(cells)} cells, its source {len(source)}"
    for i, (ours, theirs) in enumerate(zip(source, cells, strict=True)):
        if (ours.cell_type, ours.source, ours.metadata) != (theirs.cell_type, theirs.source, theirs.metadata):
            return f"{name}.ipynb: cell {i} is not the source's"
    return None


def first_complaint(name: str) -> str | None:
    """Run the lesson with its gaps: what the first exercise says, None if nothing stops the run."""
    lesson = lesson_source(name)
    try:
        execute(lesson)
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return None


def pick(words: list[str]) -> list[str]:
    """ "1" or "1_one_sequence" of the command line -> names; none: all. Raises UserError for one there is not."""
    for word in words:
        if word not in LESSONS and word not in [name[0] for name in LESSONS]:
            raise UserError(f"{word}: no such lesson; there are {', '.join(LESSONS)}")
    return [name for name in LESSONS if not words or name in words or name[0] in words]


def main() -> None:
    parser = arguments.Parser(description="Make, check or run the workshop's notebooks.")
    parser.add_argument("lessons", nargs="*", help="numbers or names; default: all")
    parser.add_argument("--check", action="store_true", help="compare with the sources; run nothing")
    parser.add_argument("--unsolved", action="store_true", help="run as they are, up to the first exercise")
    args = parser.parse_args()
    names = pick(args.lessons)
    if args.check:
        if wrong := [words for words in map(difference, names) if words]:
            raise UserError(f"{'; '.join(wrong)}; run python workshop/notebooks.py")
        print(f"{len(names)} notebooks are what their sources make")
        return
    for name in names:
        print(f"{name}: {first_complaint(name)}" if args.unsolved else make(name), flush=True)


if __name__ == "__main__":
    run(main)
