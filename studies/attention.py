"""Where a word looks: the attention between words and places of the picture, as maps and as a number.

- reading: how much of a word's attention lies on each image patch, while the report is written
- drawing: how much of each latent's attention lies on a word of the prompt, at a time t

On phantoms the place of every finding is known, so the maps get a number: the share of a finding word's attention that
lies inside the finding, against the share that the same maps have inside other phantoms' findings of that kind.

**Attention is no explanation.** A map says which keys a softmax weighed in one layer. What the model would have written
without them is another question, and many layers mix every token's content long before the word is chosen.

    python -m studies.attention     the number, on phantoms

The page (`python demo.py`) shows the words of a report over the film, the first lesson those of a prompt over the
drawing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import attention
import flow
from checkpoints.janus import JanusPro
from common import arguments
from common.errors import UserError, run
from common.files import SHIPPED
from evaluation.metrics import derangement
from evaluation.tables import Table, text
from phantoms.dataset import phantom
from phantoms.truth import KINDS
from reports.questions import default_question
from sample import DISCLAIMER, load_model, pixels_of, prompt_ids
from studies.autoencoder import OWN, with_and_without
from weights import Checkpoint

TIME = 0.7  # of the noise at which a drawing is looked at: the large shapes are being decided
SEED = 1  # of the phantoms; training uses 0
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


# ---- the maps ----------------------------------------------------------------------------------------------------


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
def report_maps(
    checkpoint: Checkpoint, image: Image.Image, report: str, question: str | None = None
) -> list[tuple[str, np.ndarray]]:
    """Words of a report -> the attention of each on the image's patches: [(word, (layers, h, w) float32), ...].

    The whole report is read at once, as in training. A map is the mean over heads and over the word's pieces; it sums
    to the share of attention that the image gets. It is taken where each piece is predicted, one token before its own
    place: there the model looks for what to write. At its own place it looks for what comes next, and on phantoms half
    of what `shares` finds is gone. image: 8-bit grey, of any size.
    """
    model, config = checkpoint.model, checkpoint.model.config
    if isinstance(model, JanusPro):
        raise UserError("these weights are Janus-Pro's, whose sequence has another layout; name a UniX")
    question = default_question(config.wording) if question is None else question
    ids, words = words_of(checkpoint, report)
    before = model.asked(prompt_ids(checkpoint, question, "the question"))
    pixels = pixels_of(checkpoint, [image])
    with kept_maps() as maps:
        model.read_forward(pixels, torch.tensor([[*before, *ids]], device=pixels.device))
    maps = torch.stack(maps)  # (layers, 1, heads, S, S)
    side = config.vit.image_size // config.vit.patch_size
    first = side**2 + 2 + len(before) - 1  # where the report's first piece is predicted
    on_patches = maps[:, 0, :, first:, 1 : 1 + side**2].mean(dim=1).cpu()  # (layers, T, patches); BOI comes first
    return [(word, on_patches[:, pieces].mean(dim=1).unflatten(1, (side, side)).numpy()) for word, pieces in words]


def word_maps(
    checkpoint: Checkpoint, image: Image.Image, report: str, layer: int | None = None
) -> list[tuple[str, np.ndarray]]:
    """`report_maps` to look at: [(word, (h, w) float32 that sums to 1), ...] of one layer, or averaged over all."""
    return [(word, flattened(maps, layer)) for word, maps in report_maps(checkpoint, image, report)]


@torch.inference_mode()
def prompt_maps(checkpoint: Checkpoint, prompt: str, x: torch.Tensor, t: float) -> list[tuple[str, np.ndarray]]:
    """Words of a prompt -> the share of each latent's attention on each: [(word, (layers, h, w) float32), ...].

    x: (1, latent_channels, h, w) noisy latents at time t. The mean over heads, the sum over the word's pieces.
    """
    ids, words = words_of(checkpoint, prompt)
    h, w = x.shape[2:]
    with kept_maps() as maps:
        checkpoint.model(x, torch.tensor([t], device=x.device), [ids])
    maps = torch.stack(maps)  # (layers, 1, heads, S, S)
    on_words = maps[:, 0, :, -h * w :, 1 : 1 + len(ids)].mean(dim=1).cpu()  # (layers, latents, T); BOS comes first
    return [(word, on_words[:, :, pieces].sum(dim=2).unflatten(1, (h, w)).numpy()) for word, pieces in words]


def flattened(maps: np.ndarray, layer: int | None = None) -> np.ndarray:
    """(layers, h, w) -> one layer's map, or their average, made to sum to 1: (h, w)."""
    flat = maps.mean(axis=0) if layer is None else maps[layer]
    return flat / flat.sum()


@torch.inference_mode()
def noised(checkpoint: Checkpoint, picture: np.ndarray, t: float, seed: int = 0) -> torch.Tensor:
    """A picture on its way to noise: (S, S) uint8 -> x_t, (1, latent_channels, S / 16, S / 16)."""
    pixels = checkpoint.vae.preprocess(torch.from_numpy(picture.copy())[None]).to(next(checkpoint.vae.parameters()))
    latents = checkpoint.vae.encode(pixels).float()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)
    return flow.interpolate(latents, noise, torch.tensor([t], device=latents.device))


def over(film: np.ndarray, word_map: np.ndarray) -> np.ndarray:
    """A map over its film, orange where the word looks more than evenly: (S, S) uint8, (h, w) -> (S, S, 3) uint8."""
    excess = np.maximum(word_map - word_map.mean(), 0)
    small = Image.fromarray((excess / max(excess.max(), 1e-12)).astype(np.float32))
    strength = 0.65 * np.asarray(small.resize(film.shape[::-1], Image.Resampling.BILINEAR))[..., None]
    mixed = (1 - strength) * film[..., None].astype(np.float32) + strength * np.array([255, 120, 0], dtype=np.float32)
    return mixed.round().astype(np.uint8)


# ---- the number --------------------------------------------------------------------------------------------------


def place(seed: int, index: int, kind: str, cells: int, size: int = 256) -> np.ndarray | None:
    """How much of each cell of a cells x cells grid belongs to the finding, (cells, cells) in 0..1.

    None if the phantom has no such finding, or two that cannot be told apart. A pixel is the finding's own if it
    changes when the same chest is rendered without it.
    """
    pair = with_and_without(seed, index, kind, size)
    if pair is None:
        return None
    own = np.abs(pair[0].astype(np.float32) - pair[1]) > OWN
    each = size // cells
    return own.reshape(cells, each, cells, each).mean(axis=(1, 3))


def names(kind: str, word: str) -> bool:
    return re.fullmatch(NOUNS.get(kind, kind), word.strip(".,:").lower()) is not None


def named_map(words: Sequence[tuple[str, np.ndarray]], kind: str) -> np.ndarray | None:
    """The mean map of the words that name a kind of finding, (layers, h, w); None if none does."""
    maps = [maps for word, maps in words if names(kind, word)]
    return np.mean(maps, axis=0) if maps else None


def inside(maps: np.ndarray, finding: np.ndarray) -> np.ndarray:
    """The share of each layer's map that lies in the finding, then of their average.

    maps: (layers, h, w), finding: (h, w) in 0..1 -> (layers + 1,).
    """
    all_maps = np.concatenate([maps, maps.mean(axis=0, keepdims=True)])
    return (all_maps * finding).sum(axis=(1, 2)) / all_maps.sum(axis=(1, 2))


def shares(checkpoint: Checkpoint, kind: str, count: int, reading: bool, seed: int = SEED) -> dict[str, np.ndarray]:
    """`inside` over `count` phantoms with this kind of finding, each (count, layers + 1) but `area`, (count, 1).

    inside: in the finding's own place. others: the same maps in other phantoms' findings of this kind; a model that
    knows only where such findings lie in general scores the same in both. area: the place's share of the picture.
    """
    maps, places, index = [], [], 0
    config = checkpoint.model.config
    cells = config.vit.image_size // config.vit.patch_size if reading else config.image_size // 16
    while len(maps) < count:
        finding = place(seed, index, kind, cells)
        if finding is not None:
            patient = phantom(seed, index, 256)
            if reading:
                words = report_maps(checkpoint, Image.fromarray(patient.image), patient.report)
            else:
                x = noised(checkpoint, phantom(seed, index, config.image_size).image, TIME, seed=index)
                words = prompt_maps(checkpoint, patient.impression, x, TIME)
            named = named_map(words, kind)
            if named is not None:
                maps.append(named)
                places.append(finding)
        index += 1
    partner = derangement(count, seed)
    return {
        "inside": np.stack([inside(each, finding) for each, finding in zip(maps, places, strict=True)]),
        "others": np.stack([inside(each, places[other]) for each, other in zip(maps, partner, strict=True)]),
        "area": np.stack([finding.mean(keepdims=True)[0] for finding in places]),
    }


def side_share(checkpoint: Checkpoint, side: str, count: int, seed: int = SEED) -> np.ndarray:
    """While drawing: of all latents' attention on the word "left" or "right", the share on that side, (count,).

    The patient's left is on the right of the picture. An even map scores 0.5. Impressions that
    name one side, once.
    """
    found, index, size = [], 0, checkpoint.model.config.image_size
    while len(found) < count:
        patient = phantom(seed, index, size)
        sides = re.findall(r"\b(?:left|right|bilateral)\b", patient.impression.lower())
        if sides == [side]:
            words = prompt_maps(checkpoint, patient.impression, noised(checkpoint, patient.image, TIME, index), TIME)
            word_map = next(maps for word, maps in words if word.lower().strip(".") == side).mean(axis=0)
            right, left = np.array_split(word_map, 2, axis=1)
            found.append((left if side == "left" else right).sum() / word_map.sum())
        index += 1
    return np.array(found)


def print_shares(checkpoint: Checkpoint, count: int) -> None:
    """Both directions, every kind of finding, averaged over layers; then the gain over `others` of each layer."""
    titles = {
        True: f"Reading: of a finding word's attention on the film, the share inside the finding ({count} each)",
        False: f"Drawing at t = {TIME:g}: of all latents' attention on a finding word, the share inside the finding",
    }
    for reading, title in titles.items():
        rows, gains = [], []
        for kind in tqdm(KINDS, desc="attention", unit="kind", leave=False):
            scores = {name: values.mean(axis=0) for name, values in shares(checkpoint, kind, count, reading).items()}
            rows.append([kind, *(float(values[-1]) for values in scores.values())])
            with np.errstate(divide="ignore", invalid="ignore"):  # few phantoms: nothing may lie in the others' places
                gains.append(scores["inside"] / scores["others"])
        *layers, average = np.exp(np.log(gains).mean(axis=0))
        note = "others: the same maps in other phantoms' findings of this kind. area: what an even map scores.\n"
        note += f"inside / others, geometric mean over the kinds: {average:.2f}; by layer: "
        note += " ".join(f"{gain:.2f}" for gain in layers)
        print(text(Table(["", "inside", "others", "area"], rows, title, note)), end="\n\n", flush=True)
    left, right = (side_share(checkpoint, side, count).mean() for side in ("left", "right"))
    print(f"Of the attention on 'left' {left:.3f} lies on that side, on 'right' {right:.3f}; of an even map 0.5.\n")
    print("Attention is no explanation: it says what a softmax weighed. " + DISCLAIMER)


def main() -> None:
    parser = arguments.Parser(description="Where a word looks. Attention is no explanation.", epilog=DISCLAIMER)
    add = parser.add_argument
    add("--n", type=arguments.whole(2, 1000), default=16, help="phantoms of each kind (default 16)")
    add("--weights", type=arguments.weights_folder, default=SHIPPED, help="weights folder (default: the shipped model)")
    args = parser.parse_args()
    checkpoint = load_model(args.weights, "cpu", torch.float32)
    if isinstance(checkpoint.model, JanusPro):
        raise UserError(f"--weights {args.weights}: a Janus-Pro, whose sequence has another layout; name a UniX")
    print_shares(checkpoint, args.n)


if __name__ == "__main__":
    run(main)
