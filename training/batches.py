"""The examples of a run: which data set they come from, what is asked for, and how a batch is divided."""

from pathlib import Path

from archives.opening import open_source
from archives.records import Records
from common import arguments
from common.distributed import Team
from common.errors import UserError
from data import Examples, repeat_factors
from phantoms.dataset import TRAIN_SEED, Phantoms, named
from reports.phrases import common_targets, visible
from reports.questions import DEFAULT_QUESTION
from training.recipe import Recipe
from weights import Checkpoint

VALIDATION_SEED = 3  # of phantoms that nothing else renders


def open_data(word: str, split: str, stage: str, size: int, cache: Path) -> Phantoms | Records:
    """What --data names (split "train") or --validate ("validate"), pictures at `size` px.

    Raises UserError if a set has no validation split.
    """
    training = split == "train"
    if arguments.names_phantoms(word):
        count, seed = (20_000, TRAIN_SEED) if training else (200, VALIDATION_SEED)
        return named(word, count, max(256, size), seed, cache)
    source = open_source(word, "train" if training else "all")
    if not training:
        source.records = [record for record in source.records if record.split == split]
    if not source.records:
        mend = "python data.py clean SRC --out FILE --hold-out 0.1 makes one, by patient"
        raise UserError(f"--validate {word}: has no validation split; {mend}")
    # The autoencoder trains on crops at full detail; the others see the whole picture at `size`.
    source.size = None if stage == "vae" and training else size
    return source


def phrases_of(source: Phantoms | Records) -> list[str]:
    """What the ViT learns to see: what at least one in 500 phantoms shares. Of real films one in 200: a rarer phrase
    would be learnt by heart, not seen."""
    found = [visible(source, i) for i in range(min(len(source), 5000))]
    phrases = common_targets(found, least=max(2, len(found) // (200 if isinstance(source, Records) else 500)))
    if not phrases:
        what = "its reports say all the same, or each something else"
        raise UserError(f"--data: {what}; stage vit needs what some films share and others lack: give more examples")
    return phrases


def examples_of(
    stage: str, recipe: Recipe, source: Phantoms | Records, checkpoint: Checkpoint, phrases: list[str], training: bool
) -> Examples:
    """What a stage learns from; or, without what is random about it, what it is validated on."""
    varied = training and isinstance(source, Records)
    return Examples(
        source,
        stage,
        recipe.size,
        recipe.seed if training else 0,
        checkpoint.encode,
        checkpoint.model.config,
        recipe.batch,
        phrases,
        prompt_dropout=0.1 if training and stage != "reflow" else 0.0,
        mix=recipe.ratio,
        augmented=recipe.augment and varied,
        repeats=repeat_factors(source, recipe.balance) if recipe.balance > 1 and varied else None,
        observations=recipe.observations,
    )


def divide(recipe: Recipe, processes: int) -> tuple[int, int]:
    """(examples at a time, how often before a step): the most that --micro-batch allows and that comes out even."""
    together = sum(recipe.ratio)  # examples of a mix stay in one micro-batch
    each, rest = divmod(recipe.batch, processes)
    sizes = [m for m in range(1, min(each, recipe.micro_batch) + 1) if each % m == 0 and m % together == 0]
    if rest or not sizes:
        what = f"{processes} processes in micro-batches of up to {recipe.micro_batch}"
        what += f" that are multiples of {together} (--mix {recipe.mix})" * (together > 1)
        raise UserError(f"--batch {recipe.batch}: cannot be shared by {what}")
    return sizes[-1], each // sizes[-1]


def say_what_is_cut(examples: Examples, team: Team) -> None:
    """Reports that the context does not hold are cut, never in silence. Phantoms' all fit."""
    stage, source, context = examples.stage, examples.source, examples.config.context_length
    if stage in ("vae", "vit") or not isinstance(source, Records) or not team.is_main:
        return
    room = context - 2 - (len(examples.encode(DEFAULT_QUESTION)) + 2 if stage == "1" else 0)
    reports = (source.text(i)[0] for i in range(len(source)))  # a token of a byte-level tokenizer is at least a byte
    if cut := sum(len(report.encode()) > room and len(examples.encode(report)) > room for report in reports):
        team.say(f"{cut} of {len(source):,} reports are longer than the {context} tokens of the context, and are cut")
