"""The campaign of random faults, for seven seconds of each kind."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_random_faults_are_handled():
    command = [sys.executable, ROOT / "tests/campaign.py", "--minutes", "0.12"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(", 0 not")
