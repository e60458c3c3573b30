"""The campaign of random faults, for twenty seconds of each kind."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_minute_of_random_faults_is_handled():
    command = [sys.executable, ROOT / "tests/campaign.py", "--minutes", "0.33"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(", 0 not")
