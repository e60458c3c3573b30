"""What `python data.py` does with records; tests/test_data_command.py runs it."""

from dataclasses import replace

import pytest

from archives.command import hold_out
from archives.records import Record
from common.errors import UserError


def test_a_share_of_the_patients_is_held_out_and_no_patient_is_on_both_sides():
    records = [Record(f"{i}.png", "Clear.", "", patient=str(i // 2)) for i in range(400)]
    split = hold_out(records, 0.2)
    sides = {name: {r.patient for r in split if r.split == name} for name in ("train", "validate")}
    assert not sides["train"] & sides["validate"] and len(sides["train"] | sides["validate"]) == 200
    assert 25 < len(sides["validate"]) < 55  # 40 expected, three deviations of 5.7
    assert hold_out(split, 0.5) == split  # a set that has a split keeps it
    with pytest.raises(UserError, match=r"--hold-out 0.2: leaves 0 reports to train on"):
        hold_out([replace(record, split="test") for record in records], 0.2)
