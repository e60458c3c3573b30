"""Published names go to ours, each to one place."""

import importlib

import pytest

from checkpoints.layouts import LAYOUTS, translate_unix
from golden.weights_by_rule import state_dict

JUDGES = [layout for layout in LAYOUTS if "python " not in layout.use]


def test_published_names_translate_one_to_one():
    places = [translate_unix(name) for name in state_dict("unix_tiny")]
    used = [place for place in places if place is not None]
    assert len(used) == len(set(used))
    with pytest.raises(KeyError):
        translate_unix("language_model.model.layers.0.self_attn.rotary.weight")


@pytest.mark.parametrize("layout", JUDGES, ids=lambda one: one.holds)
def test_what_inspect_says_of_a_judge_can_be_imported(layout):
    module, name = layout.use.split(":")[0].rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)
