"""The random checkpoints of lesson 7 have the names that the authors publish, and load whole."""

import json
import re
import sys
from pathlib import Path

import pytest

from weights import load_checkpoint

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "workshop"))
import random_weights


def families(names):
    """Names without their layer numbers, and without what nothing reads."""
    unread = re.compile(r"attn_pool|^gen_|vit_pos_embed")
    return {re.sub(r"\.\d+\.", ".N.", name, count=1) for name in names if not unread.search(name)}


@pytest.mark.parametrize("kind", ["unix", "janus"])
def test_the_names_are_those_of_the_golden_models(kind):
    golden = json.loads((ROOT / f"tests/golden/{kind}_tiny.json").read_text())["keys"]
    assert families(random_weights.shapes(kind)) == families(golden)


@pytest.mark.parametrize("kind", ["unix", "janus"])
def test_such_a_folder_loads(tmp_path, kind, capsys):
    checkpoint = load_checkpoint(random_weights.write(tmp_path / kind, kind))
    assert checkpoint.model.config.num_layers == random_weights.LAYERS
    assert checkpoint.model.config.num_heads == random_weights.HEADS
    copied, new = re.search(r"(\d+), new (\d+)", capsys.readouterr().out).groups()
    assert (int(copied) > 0, int(new) > 0) == ((kind == "janus"),) * 2
