"""Where a word looks: how much of its attention lies on each image patch, while the report is written.

On phantoms the place of every finding is known, so the maps get a number: the share of a finding word's attention that
lies inside the finding, against the share that the same maps have inside other phantoms' findings of that kind.

**Attention is no explanation.** A map says which keys a softmax weighed in one layer. What the model would have written
without them is another question, and many layers mix every token's content long before the word is chosen.

    python -m studies.attention     the number; the page (`python demo.py`) and the first lesson show maps
"""

import contextlib
import itertools
import re
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import attention
from common.errors import run
from evaluation.metrics import derangement
from evaluation.tables import Table, text
from phantoms.dataset import phantom
from phantoms.truth import KINDS
from sample import DISCLAIMER, pixels_of, question_of
from studies.autoencoder import OWN, with_and_without
from studies.command import load_unix, study
from weights import Checkpoint

NOUNS = {  # kind of finding -> the words that name it in phantoms/wording.py
    "widened mediastinum": "mediastinum|mediastinal|widening",
    "cardiomegaly": "cardiomegaly|cardiac|heart",
    "lung opacity": "opacity|haziness",
    "rib fracture": "rib|fractures",
    "endotracheal tube": "endotracheal|tube",
    "central venous catheter": "venous|catheter|line",
    "pleural effusion": "effusions?",
    "pleural thickening": "thickening",
}


def attention_weights(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The softmax of Eq. 5 as a tensor: what `attention.attend` multiplies the values by.

    q: (B, heads, S, head_dim), k: (B, heads, K, head_dim), both turned; mask as in `JointAttention` -> (B, heads, S, K)
    float32; rows sum to 1, 0 where the mask is False.
    """
    scores = q.float() @ k.float().transpose(2, 3) / q.shape[-1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)


@contextlib.contextmanager
def kept_maps() -> Iterator[list[torch.Tensor]]:
    """Within, a list gets the `attention_weights` of every layer that runs in this process, one after the other."""
    maps, attend = [], attention.attend

    def looking(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is not None:  # the ViT has none: its own attention is another question
            maps.append(attention_weights(q, k, mask))
        return attend(q, k, v, mask)

    attention.attend = looking
    try:
        yield maps
    finally:
        attention.attend = attend


def words_of(checkpoint: Checkpoint, text: str) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """Token ids of a text, and its words, each with the places of its pieces among the ids."""
    encoding = checkpoint.tokenizer.encode(text, add_special_tokens=False)
    words = []
    for match in re.finditer(r"\S+", text):
        pieces = [i for i, (start, end) in enumerate(encoding.offsets) if start < match.end() and end > match.start()]
        words.append((match.group(), pieces))
    return encoding.ids, words


@torch.inference_mode()
def report_maps(checkpoint: Checkpoint, image: Image.Image, report: str) -> list[tuple[str, np.ndarray]]:
    """Words of a report -> the attention of each on the image's patches: [(word, (layers, h, w) float32), ...].

    The whole report is read at once, as in training. A map is the mean over heads and over the word's pieces; it sums
    to the share of attention that the image gets. It is taken where each piece is predicted, one token before its own
    place: there the model looks for what to write. At its own place it looks for what comes next, and on phantoms half
    of what `shares` finds is gone. image: 8-bit grey, of any size.
    """
    model, config = checkpoint.model, checkpoint.model.config
    ids, words = words_of(checkpoint, report)
    before = model.asked(question_of(checkpoint, None))
    pixels = pixels_of(checkpoint, [image])
    with kept_maps() as maps:
        model.read_forward(pixels, torch.tensor([[*before, *ids]], device=pixels.device))
    maps = torch.stack(maps)  # (layers, 1, heads, S, S)
    side = config.vit.image_size // config.vit.patch_size
    first = side**2 + 2 + len(before) - 1  # where the report's first piece is predicted
    on_patches = maps[:, 0, :, first:, 1 : 1 + side**2].mean(dim=1).cpu()  # (layers, T, patches); BOI comes first
    return [(word, on_patches[:, pieces].mean(dim=1).unflatten(1, (side, side)).numpy()) for word, pieces in words]


def over(film: np.ndarray, word_map: np.ndarray) -> np.ndarray:
    """A map over its film, orange where the word looks more than evenly: (S, S) uint8, (h, w) -> (S, S, 3) uint8."""
    excess = np.maximum(word_map - word_map.mean(), 0)
    small = Image.fromarray((excess / max(excess.max(), 1e-12)).astype(np.float32))
    strength = 0.65 * np.asarray(small.resize(film.shape[::-1], Image.Resampling.BILINEAR))[..., None]
    mixed = (1 - strength) * film[..., None].astype(np.float32) + strength * np.array([255, 120, 0], dtype=np.float32)
    return mixed.round().astype(np.uint8)


def place(seed: int, index: int, kind: str, cells: int) -> np.ndarray | None:
    """How much of each cell of a cells x cells grid belongs to the finding, (cells, cells) in 0..1.

    None if the phantom has no such finding, or two that cannot be told apart. A pixel is the finding's own if it
    changes when the same chest is rendered without it.
    """
    pair = with_and_without(seed, index, kind, 256)
    if pair is None:
        return None
    own = np.abs(pair[0].astype(np.float32) - pair[1]) > OWN
    each = 256 // cells
    return own.reshape(cells, each, cells, each).mean(axis=(1, 3))


def names(kind: str, word: str) -> bool:
    return re.fullmatch(NOUNS.get(kind, kind), word.strip(".,:").lower()) is not None


def inside(word_map: np.ndarray, finding: np.ndarray) -> float:
    """The share of a map, (h, w), that lies in the finding, (h, w) in 0..1."""
    return float((word_map * finding).sum() / word_map.sum())


def shares(checkpoint: Checkpoint, kind: str, count: int, seed: int = 1) -> dict[str, float]:
    """`inside` of the words for a kind of finding, the mean over `count` phantoms with it, at least 2.

    inside: in the finding's own place. others: the same maps in other phantoms' findings of this kind; a model that
    knows only where such findings lie in general scores the same in both. area: the place's share of the picture.
    """
    vit = checkpoint.model.config.vit
    maps, places = [], []
    for index in itertools.count():
        finding = place(seed, index, kind, vit.image_size // vit.patch_size)
        if finding is None:
            continue
        patient = phantom(seed, index, 256)
        words = report_maps(checkpoint, Image.fromarray(patient.image), patient.report)
        named = [each.mean(axis=0) for word, each in words if names(kind, word)]
        if named:
            maps.append(np.mean(named, axis=0))
            places.append(finding)
        if len(maps) == count:
            break
    partner = derangement(count, seed)
    return {
        "inside": float(np.mean([inside(each, finding) for each, finding in zip(maps, places, strict=True)])),
        "others": float(np.mean([inside(each, places[other]) for each, other in zip(maps, partner, strict=True)])),
        "area": float(np.mean(places)),
    }


def main() -> None:
    args = study("Where a word looks. Attention is no explanation.", 16, "phantoms of each kind", least=2).parse_args()
    checkpoint, rows = load_unix(args), []
    for kind in tqdm(KINDS, desc="attention", unit="kind", leave=False):
        rows.append([kind, *shares(checkpoint, kind, args.n, args.seed).values()])
    with np.errstate(divide="ignore"):  # few phantoms: nothing may lie in the others' places
        gain = np.exp(np.mean([np.log(np.float64(own) / others) for _, own, others, _ in rows]))
    title = f"Of a finding word's attention on the film, the share inside the finding ({args.n} phantoms each)"
    note = "others: the same maps in other phantoms' findings of this kind. area: what an even map scores.\n"
    note += f"inside / others, geometric mean over the kinds: {gain:.2f}"
    print(text(Table(["", "inside", "others", "area"], rows, title, note)))
    print("\nAttention is no explanation: it says what a softmax weighed. " + DISCLAIMER)


if __name__ == "__main__":
    run(main)
