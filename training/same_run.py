"""Whether a run may go on in its folder: with the flags it was started with, and without losing one that is there."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from training.state import read_state


def check_same_run(out: Path, before: dict, now: dict) -> None:
    """Raises UserError if a flag would make --resume another run. More steps are welcome if the rate never falls."""
    for name, value in before["recipe"].items():
        longer = name == "steps" and not before["decay"] and now["recipe"]["steps"] >= value
        if now["recipe"][name] != value and name != "micro_batch" and not longer:
            raise UserError(f"--resume: {out} was started with {name} {value}, not {now['recipe'][name]}; leave it out")
    names = ("stage", "seed", "data", "decay", "ema", "train", "mix", "repa", "gen_from", "require", "observations")
    for name in (*names, "validate", "validate_every"):
        there, flag = before.get(name, 0.0 if name == "ema" else None), name.replace("_", "-")
        if there != now[name] and there is None:
            raise UserError(f"--resume: {out} was started without --{flag}; leave it out")
        if there != now[name]:
            raise UserError(f"--resume: {out} was started with --{flag} {there}; give that again")


def check_no_run_is_lost(out: Path) -> None:
    """Raises UserError if OUT holds a run that is not finished, or a damaged one: forgetting --resume must not cost a
    week."""
    there = read_state(out)
    steps = there.settings["recipe"]["steps"] if there else 0
    if there and there.step < steps:
        raise UserError(
            f"--out {out}: holds a run at step {there.step} of {steps}; add --resume, or name another --out"
        )
