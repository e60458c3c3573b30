"""train.py --validate: how the model of a run does on examples that no step trains on, while it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data
from archives.opening import open_source
from archives.records import Records, squares
from common import arguments
from common.errors import UserError
from evaluation import metrics
from losses import Batch
from phantoms.dataset import Phantoms, named
from reports.labeler import POSITIVE, UNCERTAIN, label_reports
from sample import read
from studies.prompt_gain import exchanged_prompts
from training.pretraining import EveryStageLoss
from weights import Checkpoint

VALIDATION_SEED = 3  # of phantoms that nothing else draws
MOST_VALIDATED = 1000  # examples: enough for the loss, and validating must not cost more than training
MOST_JUDGED = 64  # of those, for the measure beside the loss


class Validation:
    """Examples that no step trains on, made once, so that every measurement asks for the same thing.

    Beside the loss there is one number that says what the loss is worth: "psnr" (dB) of rebuilt pictures in stage vae;
    "auc", the mean area under the ROC curve of the targets, in stage vit; "f1" (micro, by the labeler) of written
    reports in stage 1; "prompt_gain" (the mean of `heeding`) in stages 2 and 3. Everything is computed by the main
    process, so it does not depend on their number.
    """

    def __init__(
        self, checkpoint: Checkpoint, losses: EveryStageLoss, examples: data.Examples, micro_batch: int
    ) -> None:
        """examples: those of the stage, of a source that it does not train on."""
        self.checkpoint, self.losses, self.examples = checkpoint, losses, examples
        self.device = checkpoint.model.vae2llm.weight.device
        count = min(len(examples.source), MOST_VALIDATED)
        count = max(count - count % sum(examples.mix), 1)
        order, collate = examples.by_length(range(count)), data.Collate(checkpoint.model.config)
        chunks = [order[i : i + micro_batch] for i in range(0, count, micro_batch)]
        self.batches = [collate([examples[position] for position in chunk]) for chunk in chunks]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """{"validate_loss": ..., "validate_" + the stage's measure: ...}"""
        batches = [{kind: part.to(self.device) for kind, part in batch.items()} for batch in self.batches]
        totals: dict[str, int] = {}
        for batch in batches:
            totals |= {kind: totals.get(kind, 0) + part.terms() for kind, part in batch.items()}
        loss = sum(self.losses(batch, totals)[0].item() for batch in batches)
        name, value = {"vae": self.psnr, "vit": self.auc, "1": self.f1}.get(self.examples.stage, self.gain)(batches)
        return {"validate_loss": loss, f"validate_{name}": value}

    def psnr(self, batches: list[dict[str, Batch]]) -> tuple[str, float]:
        vae, found = self.checkpoint.vae, []
        for batch in batches[: MOST_JUDGED // len(batches[0]["rebuild"].index) + 1]:
            images = batch["rebuild"].image
            pixels = vae.preprocess(images).to(self.checkpoint.model.compute_dtype)
            mean, _ = vae.posterior(pixels)  # not normalised: how is measured anew in this stage
            rebuilt = vae.postprocess(vae.decoder(vae.post_quant_conv(mean)))
            error = (rebuilt.float() - images.float()).square().mean(dim=(1, 2))
            found += (10 * torch.log10(255**2 / error.clamp(min=1e-3))).tolist()
        return "psnr", float(np.mean(found))

    def auc(self, batches: list[dict[str, Batch]]) -> tuple[str, float]:
        logits = torch.cat([self.losses.phrase_logits(batch["see"]) for batch in batches]).cpu().numpy()
        truth = torch.cat([batch["see"].phrases for batch in batches]).cpu().numpy()
        areas = [metrics.area_under_roc(logits[:, k], truth[:, k]) for k in range(truth.shape[1])]
        return "auc", float(np.nanmean(areas)) if not np.isnan(areas).all() else 0.5

    def f1(self, batches: list[dict[str, Batch]]) -> tuple[str, float]:
        chosen, pictures = squares(self.examples.source, MOST_JUDGED, self.checkpoint.model.config.vit.image_size)
        images = [Image.fromarray(picture) for picture in pictures]
        written = label_reports(read(self.checkpoint, images, max_new_tokens=160, batch=len(images)))
        truth = label_reports([self.examples.source.text(i)[0] for i in chosen])
        claimed, true = (np.isin(labels, (POSITIVE, UNCERTAIN)) for labels in (written, truth))
        return "f1", float(2 * (claimed & true).sum() / max(1, claimed.sum() + true.sum()))

    def gain(self, batches: list[dict[str, Batch]]) -> tuple[str, float]:
        gains = heeding(self.checkpoint, self.examples.source, self.examples.size, MOST_JUDGED)
        return "prompt_gain", float(np.mean([*gains.values()])) if gains else 0.0


def validation_source(word: str, size: int, cache: Path, require: str | None) -> Phantoms | Records:
    """What --validate names, pictures at `size` px. Raises UserError if the set has no validation split."""
    if arguments.names_phantoms(word):
        return named(word, 200, max(256, size), VALIDATION_SEED, cache)
    whole = open_source(word, split="all", cache=cache, require=require)
    if not whole.counts.get("validate"):
        raise UserError(
            f"--validate {word}: has no validation split; python data.py clean SRC --out FILE --hold-out 0.1"
            " makes one, by patient"
        )
    source = open_source(word, split="validate", cache=cache, require=require)
    source.size = size
    return source


@torch.no_grad()
def heeding(checkpoint: Checkpoint, source: Phantoms | Records, size: int, count: int = 32) -> dict[str, float]:
    """The prompt gain on the first training examples, as it is logged: it says more than the loss does of whether a
    drawing will show what it is asked for."""
    room = checkpoint.model.config.context_length - 2
    chosen, pictures = squares(source, count, size)
    texts = [checkpoint.encode(source.text(i)[1])[:room] for i in chosen]
    if len(texts) < 2:
        return {}
    gains = exchanged_prompts(checkpoint.model, checkpoint.vae, torch.from_numpy(np.stack(pictures)), texts)
    return {f"prompt_gain_{t}": gain for t, gain in gains.items()}
