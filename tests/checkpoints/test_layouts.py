"""Published names go to ours, each to one place."""

import pytest

from checkpoints.layouts import translate_unix
from golden.weights_by_rule import state_dict


def test_published_names_translate_one_to_one():
    places = [translate_unix(name) for name in state_dict("unix_tiny")]
    used = [place for place in places if place is not None]
    assert len(used) == len(set(used))
    with pytest.raises(KeyError):
        translate_unix("language_model.model.layers.0.self_attn.rotary.weight")
