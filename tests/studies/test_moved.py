"""Who types the old name of a study is told the new one, at once."""

import subprocess
import sys
from pathlib import Path

import pytest

import evaluation

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", evaluation.STUDIES)
def test_the_old_name_of_a_study_says_the_new_one(name):
    assert (ROOT / "studies" / f"{name}.py").is_file()
    command = [sys.executable, "-m", f"evaluation.{name}", "--n", "3"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.returncode == 2
    assert told.stderr == f"error: python -m evaluation.{name}: has moved; type python -m studies.{name}\n"
