"""The rules of the house (DESIGN.md), read from the import lines: what lies where, and who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAPER = {"layers": 0, "attention": 1, "vit": 2, "flow": 1, "vae": 1, "model": 3, "losses": 4, "generate": 4}
COMMANDS = {"weights", "data", "train", "sample", "edit", "evaluate", "demo"}
TO_COME = {"lora"}  # may be absent
WINGS = {"common", "checkpoints", "phantoms", "archives", "reports", "judges", "training", "evaluation", "studies"}
WINGS |= {"page", "speed"}
NOT_WINGS = {"tests", "docs", "runs", "assets", "workshop"}

# Imports inside functions are for start-up time and for optional packages. Nothing else hides in one.
WAITS_FOR_NO_TORCH = {"evaluate.py"}
OPTIONAL = {  # file -> packages that a user may lack, or whose import costs something that few runs need
    "common/images.py": {"pydicom"},
    "common/clock.py": {"resource"},
    "reports/cleaning.py": {"reports.llm"},  # openai
    "demo.py": {"page.server"},  # gradio, which a user may lack, and which reads its settings when it is imported
    "evaluation/report.py": {"radgraph"},
    "evaluation/words.py": {"nltk", "punkt"},
    "common/errors.py": {"tempfile", "traceback"},  # start-up: only what nobody foresaw needs them
    "train.py": {"torch"},  # torch.distributed.optim
    "checkpoints/download.py": {"huggingface_hub"},  # which nothing else asks
}


class Import(NamedTuple):
    file: str  # "judges/bert.py"
    line: int
    target: str  # "checkpoints.configs" for a file of ours, else the name of the package
    deferred: bool  # inside of a function
    for_hints: bool  # under TYPE_CHECKING: never run

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted([*ROOT.glob("*.py"), *(file for wing in sorted(WINGS) for file in (ROOT / wing).rglob("*.py"))])
MODULES = {module_of(file) for file in FILES}


def targets(node: ast.Import | ast.ImportFrom) -> set[str]:
    """What an import line names, as files of ours where they are ours: `from judges import bert` is judges.bert."""
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    else:
        inside = {f"{node.module}.{alias.name}" for alias in node.names}
        names = (inside & MODULES) | ({node.module} if inside - MODULES else set())
    return {name if name in MODULES else name.split(".")[0] for name in names}


def imports_of(file: Path) -> list[Import]:
    found, name = [], file.relative_to(ROOT).as_posix()

    def visit(node: ast.AST, deferred: bool, for_hints: bool) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.extend(Import(name, node.lineno, target, deferred, for_hints) for target in sorted(targets(node)))
        deferred |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        hints = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            visit(child, deferred, for_hints or hints)

    visit(ast.parse(file.read_text(encoding="utf-8")), False, False)
    return found


IMPORTS = [found for file in FILES for found in imports_of(file)]
OURS = [found for found in IMPORTS if found.target in MODULES]


def source(found: Import) -> str:
    return module_of(ROOT / found.file)


def wing(module: str) -> str:
    return module.split(".")[0]


def listed(imports: list[Import]) -> str:
    return "; ".join(map(str, imports))


def test_common_imports_only_common():
    wrong = [found for found in OURS if wing(source(found)) == "common" and wing(found.target) != "common"]
    assert not wrong, f"common/ knows nobody: {listed(wrong)}"


def test_the_papers_files_import_common_and_each_other_downwards():
    def allowed(found: Import) -> bool:
        below = PAPER.get(found.target, 99) < PAPER[source(found)]
        return below or wing(found.target) == "common"

    wrong = [found for found in OURS if source(found) in PAPER and not allowed(found)]
    assert not wrong, (
        f"the paper imports downwards, layers < attention, flow, vae < vit < model < losses, generate: {listed(wrong)}"
    )


def test_data_reports_and_phantoms_know_no_model_and_no_command():
    above = {*PAPER, *COMMANDS, *TO_COME, "evaluation", "judges", "checkpoints", "speed", "training", "studies", "page"}
    wings = {"archives", "phantoms", "reports"}
    wrong = [found for found in OURS if wing(source(found)) in wings and wing(found.target) in above]
    assert not wrong, f"archives/, phantoms/ and reports/ must not import what uses them: {listed(wrong)}"


def test_nobody_imports_a_command_that_is_only_run():
    only_run = {"demo", "train", "evaluate", "speed.bench"}
    wrong = [found for found in OURS if found.target in only_run]
    assert not wrong, f"{sorted(only_run)} are run, not imported; move what is shared: {listed(wrong)}"


def test_nobody_imports_the_workshop():
    lessons = {"workshop", *(file.stem for file in (ROOT / "workshop").glob("*.py")), "checks"}
    wrong = [found for found in IMPORTS if found.target in lessons]
    assert not wrong, f"the workshop uses the project, never the other way round: {listed(wrong)}"


def test_no_circle_among_files():
    """A file at the end of all chains imports none of the files that are left; what has no such end is a circle."""
    needs = {module: set() for module in MODULES}
    for found in OURS:
        if not found.for_hints and found.target != source(found):
            needs[source(found)].add(found.target)
    while ends := {module for module, targets in needs.items() if not targets}:
        needs = {module: targets - ends for module, targets in needs.items() if module not in ends}
    while starts := set(needs) - set().union(*needs.values()):  # nobody who is left needs them
        needs = {module: targets for module, targets in needs.items() if module not in starts}
    assert not needs, f"these files import each other in a circle: {needs}"


def test_the_top_level_is_the_paper_and_the_commands():
    found = {file.stem for file in ROOT.glob("*.py")}
    extra, absent = found - set(PAPER) - COMMANDS - TO_COME, (set(PAPER) | COMMANDS) - TO_COME - found
    assert not extra, f"{sorted(extra)}: the top level is for the paper and the commands; which wing do they belong to?"
    assert not absent, f"{sorted(absent)}: no such file at the top level"


def test_every_folder_of_code_is_a_wing_that_says_what_never_goes_in():
    folders = {file.parent.name for file in ROOT.glob("*/*.py") if not file.parent.name.startswith(".")} - NOT_WINGS
    assert folders == WINGS, f"wings by their folders: {sorted(folders)}, by DESIGN.md: {sorted(WINGS)}"
    for name in sorted(WINGS):
        doc = ast.get_docstring(ast.parse((ROOT / name / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert "goes in here" in doc, f"{name}/__init__.py does not say what never goes in: {doc!r}"


def test_imports_inside_functions_are_for_start_up_and_optional_packages():
    def allowed(found: Import) -> bool:
        return found.file in WAITS_FOR_NO_TORCH or found.target in OPTIONAL.get(found.file, ())

    deferred = [found for found in IMPORTS if found.deferred]
    wrong = [found for found in deferred if not allowed(found)]
    assert not wrong, f"imports go to the top of a file, unless a list in this test says why not: {listed(wrong)}"


# ---- what a reader has to carry: to raise a number is a decision, and the commit says why ------------------------

CORE = ("layers", "attention", "vit", "model", "flow", "vae", "losses")
MOST_LINES = {"model.py": 420, "train.py": 300, "sample.py": 300, "data.py": 350}
LONGEST_FILE, MOST_TOP_LEVEL, MOST_OF_CORE = 500, 3000, 1200
MOST_PYTHON = 14_500  # outside tests and workshop; the aim is 14,000
MOST_README, MOST_DOCS = 1300, 10_000  # words
MOST_FLAGS = {"train.py": 26, "sample.py": 14}


def length(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def words(files: list[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").split()) for file in files)


def test_the_house_is_no_larger_than_a_reader_can_carry():
    lengths = {file.relative_to(ROOT).as_posix(): length(file) for file in FILES}
    top = {name: lines for name, lines in lengths.items() if "/" not in name}
    assert sum(lengths[f"{name}.py"] for name in CORE) <= MOST_OF_CORE
    assert sum(top.values()) <= MOST_TOP_LEVEL and len(top) <= 16
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES.get(name, LONGEST_FILE)} == {}
    assert sum(lengths.values()) <= MOST_PYTHON


def test_the_words_are_no_more_than_a_reader_reads():
    assert words([ROOT / "README.md"]) <= MOST_README
    assert words(sorted((ROOT / "docs").glob("*.md"))) <= MOST_DOCS


@pytest.mark.parametrize(("command", "most"), MOST_FLAGS.items())
def test_a_commands_help_fits_on_a_page(command, most):
    shown = subprocess.run([sys.executable, command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < sum(line.startswith("  -") for line in shown.stdout.splitlines()) <= most
