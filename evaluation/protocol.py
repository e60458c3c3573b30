"""The authors' protocol, `--protocol unix`: what UniX's public evaluation does where ours does something else.

Each choice stands here once, with theirs beside ours; docs/protocol.md names their file and line, and says what the
choice does to a number. A number may stand beside the paper's only if nothing in `deviations` is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How reports are asked for and compared, and pictures drawn and compared. The defaults are ours."""

    name: str = ""
    # Reports.
    squares: tuple[int, str] | None = None  # ViTConfig's padding and scaling that count as the protocol's
    wordings: bool = False  # a question that a row does not bring is drawn from data.QUESTIONS, not our own one
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
    guidance: float = 2.0
    size: int | None = None  # px; None: what the weights know best
    shards: int = 1  # print the mean over so many parts of the set, too
    aligner: str = "BioViL or BioViL-T"


OURS = Protocol()
UNIX = Protocol(
    name="unix",
    squares=(255, "shrink"),
    wordings=True,
    max_new_tokens=500,
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
