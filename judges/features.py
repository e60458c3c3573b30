"""Sets of images and their features: what the Fréchet distance and the other measures of Table 3 are computed from.

Numbers compare only if they come from one extractor, and only RadDino's compare with the paper's. So an extractor has a
`name`, which stands beside every number, and says whether it is `comparable`.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import lora
from archives.opening import open_source, recognise, tables_of
from archives.records import Problems, Record, Records
from checkpoints.folders import find_checkpoint, sha256
from common.errors import UserError
from common.files import FAST_ADAPTER, SHIPPED, write_atomically
from common.images import picture_files, to_square
from common.observations import OBSERVATIONS
from common.workers import default_workers
from judges.raddino import load_raddino
from reports.labeler import label_reports
from weights import load_checkpoint


def open_images(path: str | Path, split: str = "all") -> Records:
    """Everything that `archives.opening` knows, and plain folders of images, which have no texts. Raises UserError if
    there are none."""
    path = Path(path)
    try:
        recognise(path)
    except UserError:
        files = picture_files(path) if path.is_dir() and not tables_of(path)[1] else []
        if not files:
            raise
        records = [Record(file.relative_to(path).as_posix(), "", "") for file in files]
        return Records(path, "folder", records, Problems(), {})
    return open_source(path, split=split)


def prompts_of(images: Records) -> list[str]:
    """The prompt that each would have: its impression, or its findings; "" where there is neither."""
    return [images.text(i)[1] for i in range(len(images))]


def labels_of(images: Records) -> np.ndarray | None:
    """What they show, (N, 14) bool: the set's own labels, else what the labeler finds in its texts; or None."""
    if any(record.labels for record in images.records):
        return np.array([[record.labels.get(name) == 1 for name in OBSERVATIONS] for record in images.records])
    prompts = prompts_of(images)
    return label_reports(prompts) == 1 if any(prompts) else None


@dataclass
class FeatureExtractor:
    """A frozen network that turns images into features."""

    name: str
    comparable: bool  # with published numbers?
    version: str  # hash of its weights
    prepare: Callable[[np.ndarray], np.ndarray]  # (height, width) uint8 -> (S, S) uint8
    extract: Callable[[torch.Tensor], torch.Tensor]  # (B, S, S) uint8 -> (B, width)


def load_feature_extractor(
    raddino: Path | None, device: str | torch.device = "cpu", weights: Path = SHIPPED
) -> FeatureExtractor:
    """RadDino from its published folder; without it the ViT of `weights` (the average of its patches)."""
    if raddino is not None:
        network = load_raddino(raddino, device)

        def prepare(image: np.ndarray) -> np.ndarray:
            # CheXGenBench stretches every image to 299 x 299 first, for Inception's sake; RadDino then sees that.
            return np.asarray(Image.fromarray(image).resize((299, 299), Image.Resampling.BILINEAR))

        return FeatureExtractor("RadDino", True, weights_hash(raddino), prepare, lambda images: network(images)[0])
    model = load_checkpoint(weights, device, parity=True).model
    vit = model.config.vit

    def extract(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.vit(model.vit.preprocess(images.to(device))).mean(dim=1)

    def square(image: np.ndarray) -> np.ndarray:
        return to_square(Image.fromarray(image), vit.image_size, vit.padding, vit.scaling)

    name = "the tiny model's ViT, trained on phantoms" if weights == SHIPPED else f"the ViT of {weights}"
    return FeatureExtractor(name, False, weights_hash(weights), square, extract)


def features(images: Records, extractor: FeatureExtractor, cache: Path, batch: int = 32) -> np.ndarray:
    """The features of N images, (N, width) float32, in their order. Raises UserError naming one that cannot be read.

    A file in `cache` keeps them, under a hash of every image's bytes and of the extractor.
    """
    parts = [extractor.name, extractor.version, *(sha256(images.root / record.image) for record in images.records)]
    kept = cache / f"features-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:20]}.npy"
    if kept.is_file():
        return np.load(kept)
    found, bar = [], tqdm(total=len(images), unit="image", desc=f"features of {images.root}")
    with ThreadPoolExecutor(default_workers()) as pool, bar:  # Pillow lets other threads run
        for start in range(0, len(images), batch):
            rows = range(start, min(start + batch, len(images)))
            pixels = list(pool.map(lambda row: extractor.prepare(images.image(row)), rows))
            found.append(extractor.extract(torch.from_numpy(np.stack(pixels))).float().cpu().numpy())
            bar.update(len(rows))
    result = np.concatenate(found)
    with write_atomically(kept) as temporary, open(temporary, "wb") as file:
        np.save(file, result)
    return result


def weights_hash(folder: Path, adapter: Path | None = None) -> str:
    """12 hex digits of a folder's tensors, and of an adapter's: which weights a result belongs to."""
    digest, folder = hashlib.sha256(), find_checkpoint(folder) or folder
    for file in sorted(f for pattern in ("*.safetensors", "*.bin", "*.pth", "*.pt") for f in folder.glob(pattern)):
        if file.stem != "training" and file.name != FAST_ADAPTER:  # the optimizer's; what is named if it is used
            digest.update(bytes.fromhex(sha256(file)))
    if adapter:
        digest.update(bytes.fromhex(sha256(lora.file_of(adapter))))
    return digest.hexdigest()[:12]
