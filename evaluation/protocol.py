"""The authors' protocol, `--protocol unix`: what UniX's public evaluation does where ours does something else.

Each choice stands here once, with theirs beside ours; docs/protocol.md names their file and line, and says what the
choice does to a number. A number may stand beside the paper's only under a heading that does not begin NOT_THEIRS.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from common import arguments
from vit import ViTConfig

NOT_THEIRS = "not the authors' protocol"


@dataclass(frozen=True)
class Protocol:
    """How reports are asked for and compared, and pictures drawn and compared. The defaults are ours."""

    name: str = ""
    # Reports.
    squares: tuple[int, str] | None = None  # ViTConfig's padding and scaling that count as the protocol's
    wordings: bool = False  # a question that a row does not bring is one of reports.questions.QUESTIONS, not our own
    own_bos: bool = False  # before a prompt or question, a second BOS where the folder's tokenizer adds one itself
    max_new_tokens: int = 256
    nltk_words: bool = False  # for BLEU: cased, with punctuation; else words and numbers in lower case
    bleu_weights: tuple[float, ...] = (1, 1 / 2, 1 / 3, 1 / 4)
    skip_empty: bool = False  # a pair without a text on either side is left out of every measure
    rouge_draws: int = 0  # ROUGE-L is the median of so many bootstrap means; 0: the mean
    radgraph: str = "radgraph-xl"
    radgraph_version: str = ""  # any
    # Pictures.
    solver: str = "ab2"
    steps: int = 20
    guidance: float | None = None  # None, here as below: what the weights draw best with
    size: int | None = None  # px
    shards: int = 1  # print the mean over so many parts of the set, too
    aligner: str = "BioViL or BioViL-T"


OURS = Protocol()
UNIX = Protocol(
    name="unix",
    squares=(255, "shrink"),
    wordings=True,
    own_bos=True,
    max_new_tokens=499,  # theirs count BOS
    nltk_words=True,
    bleu_weights=(1, 0.5, 0.33, 0.25),
    skip_empty=True,
    rouge_draws=500,
    radgraph="radgraph",
    radgraph_version="0.1.18",
    solver="euler",
    steps=50,
    guidance=2.0,
    size=512,
    shards=4,
    aligner="BioViL-T",
)


def named(word: str | None) -> Protocol:
    """What --protocol says."""
    return UNIX if word == UNIX.name else OURS


def whose(heading: str) -> str:
    """Of a heading, whether the numbers under it were made as the authors make theirs."""
    return "the authors' protocol" if heading.startswith("the authors") else NOT_THEIRS


def heading(protocol: Protocol, lacks: Sequence[str]) -> str:
    """What stands over every number: whether they were made under the protocol, and what of it they lack."""
    if protocol is OURS:
        return f"{NOT_THEIRS} (--protocol unix; docs/protocol.md)"
    return f"{NOT_THEIRS}: {'; '.join(lacks)}" if lacks else "the authors' protocol (docs/protocol.md)"


def reading_lacks(protocol: Protocol, args: argparse.Namespace, vit: ViTConfig) -> list[str]:
    """What keeps the model from being asked for its reports as theirs is."""
    lacks = []
    if (vit.padding, vit.scaling) != protocol.squares:
        lacks.append(f"the weights' config squares films otherwise (padding {vit.padding}, scaling {vit.scaling})")
    if args.consensus:
        lacks.append(f"--consensus {args.consensus}")
    if arguments.names_phantoms(args.data):
        lacks.append("the films are rendered")
    return lacks


def set_drawing_flags(protocol: Protocol, args: argparse.Namespace) -> list[str]:
    """Put the protocol's sampler where no flag asks for another; returns the flags that do."""
    lacks = []
    for name in ("solver", "steps", "guidance", "size"):
        theirs, given = getattr(protocol, name), getattr(args, name)
        if given is None:
            setattr(args, name, theirs)
        elif given != theirs:
            lacks.append(f"--{name} {given}")
    return lacks
