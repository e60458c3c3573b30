"""The recipe of a run: every knob that changes what is learnt, described once. flags.py makes the flags from it."""

import re
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from common import arguments
from common.arguments import number
from common.errors import UserError

STAGES = ("vae", "vit", "1", "2", "3", "reflow")
FILMS = ("vit", "1")  # the stages that show films to the ViT
DRAWING = ("2", "3")


def other_to_own(word: str) -> str:
    """OTHER:OWN in whole numbers, not yet split, for that is how a run's settings keep it."""
    if not re.fullmatch(r"\d{1,4}:0*[1-9]\d{0,3}", word):
        raise UserError(f"{arguments.shown(word)}: give OTHER:OWN in whole numbers, for example 1:2; OWN at least 1")
    return word


def folder(word: str) -> str:
    return str(arguments.weights_folder(word))


class Knob(NamedTuple):
    """What stands once about a field of Recipe: its flag is made of it."""

    flag: str
    kind: Callable[[str], object] | tuple[str, ...]  # turns a word into a value in range, or the words; or bool
    help: str
    default: object = MISSING
    stages: tuple[str, ...] = STAGES  # that have a use for it
    films: bool = False  # of use to real ones only


def knob(*about: object, **more: object) -> Field:
    """A field of Recipe. about: see `Knob`."""
    one = Knob(*about, **more)
    return field(default=one.default, metadata={"knob": one})


@dataclass(frozen=True)
class Recipe:
    """A column of Table 1, and what else a run computes with, or chooses its best by, beside the weights.

    The same everywhere: AdamW (0.9, 0.95), eps 1e-15, no weight decay, gradients clipped to norm 1; but the matrices of
    the layers are Muon's where `optimizer` says so.
    """

    learning_rate: float = knob("--lr", number(0, 10, above=True), "learning rate after the warm-up")
    size: int = knob("--size", arguments.size, "image side in px")
    batch: int = knob("--batch", arguments.batch, "examples a step, over all processes")
    warmup: int = knob("--warmup", arguments.whole(0, arguments.MOST_STEPS), "steps until the full learning rate")
    steps: int = knob("--steps", arguments.steps, "optimizer steps")
    data: str = knob("--data", arguments.data_set, "phantom[:COUNT[:even]], or a data set (docs/data.md)", "phantom")
    seed: int = knob("--seed", arguments.seed, "of all that is random", 0)
    decay: float = knob("--decay", number(0, 1), "last share of the steps, in which the learning rate falls to 0", 0.0)
    ema: float = knob("--ema", number(0, 0.999999), "save an average of the weights; a step keeps so much of it", 0.0)
    micro_batch: int = knob("--micro-batch", arguments.batch, "examples at a time on one process, at most", 8)
    balance: float = knob(
        "--balance", number(1, 1000), "rare real films come so many times as often", 1.0, STAGES[1:], films=True
    )
    augment: bool = knob("--augment", bool, "turn, shift, scale, expose real films", False, FILMS, films=True)
    observations: str | None = knob(
        "--observations", ("only", "first"), "write the names of what is seen, alone or before a report", None, ("1",)
    )
    mix: str = knob("--mix", other_to_own, "OTHER:OWN; OTHER: impressions (1), reading (2, 3)", "0:1", ("1", *DRAWING))
    optimizer: str = knob("--optimizer", ("adamw", "muon"), "muon: of the layers' matrices (training/muon.py)", "adamw")
    lora: int = knob("--lora", arguments.whole(1, 4096), "train an adapter of this RANK", 0, ("1", *DRAWING, "reflow"))
    train: str = knob(
        "--train", ("gen", "both", "decoder"), "und too (2, 3); decoder: alone (vae)", "gen", ("vae", *DRAWING)
    )
    adversarial: float = knob(
        "--adversarial", number(0, 100), "of a patch discriminator, beside the other loss", 0.0, ("vae",)
    )
    repa_weight: float = knob("--repa-weight", number(0, 100), "of REPA in the loss; 0: without REPA", 0.0, ("2",))
    repa: str | None = knob("--repa", folder, "RadDino, REPA's target; else the model's own ViT", None, ("2",))
    gen_from: str | None = knob("--gen-from", folder, "whose und branch gen begins as; else its own", None, ("2",))
    time_shift: float = knob("--time-shift", number(0, 100, above=True), "above 1: noisier times", 1.0, DRAWING)
    validate: str | None = knob("--validate", arguments.data_set, "keep the best by this set's validation split", None)
    look_every: int | None = knob("--look-every", arguments.steps, "steps between pictures, and validations", None)

    @property
    def ratio(self) -> tuple[int, int]:
        """`mix` as two numbers."""
        other, own = self.mix.split(":")
        return int(other), int(own)


KNOBS: dict[str, Knob] = {each.name: each.metadata["knob"] for each in fields(Recipe)}


def typed(name: str, value: object) -> str:
    """ "--lr 0.001", as a user would write it."""
    flag = KNOBS[name].flag
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    return f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}"


def check_recipe(recipe: Recipe, stage: str, asked: dict[str, object]) -> None:
    """Raises UserError for a knob that was asked for and that the data has no use for, or two that contradict."""
    for name, value in asked.items():
        if KNOBS[name].films and arguments.names_phantoms(recipe.data):
            mend = "phantoms are evened out by --data phantom:COUNT:even"
            raise UserError(f"{typed(name, value)}: only for real films; {mend}")
    if recipe.train == ("both" if stage == "vae" else "decoder"):
        raise UserError(f"--train {recipe.train}: not for stage {stage}; leave it out")
    if recipe.ratio[0] and stage in DRAWING and recipe.train != "both":
        raise UserError(f"--mix {recipe.mix}: reading teaches the und branch, which stands still; add --train both")
    if recipe.validate and stage == "reflow":
        raise UserError(f"--validate {recipe.validate}: not for stage reflow: it learns from the model; leave it out")
    if recipe.lora and recipe.train != "gen":
        raise UserError(f"--lora {recipe.lora}: is for one branch; leave --train {recipe.train} out")
    if recipe.repa and not recipe.repa_weight:
        raise UserError(f"--repa {recipe.repa}: --repa-weight 0 trains without REPA; leave one of them out")


def check_same(before: Recipe, asked: dict[str, object], out: Path) -> None:
    """Raises UserError for a knob that would make the run in OUT another one. More steps are welcome if the rate never
    falls; how many examples are computed at a time changes nothing."""
    for name, value in asked.items():
        there = getattr(before, name)
        longer = name == "steps" and not before.decay and value >= there
        if value != there and name != "micro_batch" and not longer:
            was = f"without {KNOBS[name].flag}" if there is None else f"with {typed(name, there)}"
            raise UserError(f"--resume: {out} was started {was}, not with {typed(name, value)}; leave that out")
