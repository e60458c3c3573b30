"""train.py --validate: how the model of a run does on examples that no step trains on, while it trains."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

import data
from archives.records import Records
from evaluation import metrics
from losses import Batch
from phantoms.dataset import Phantoms
from reports.labeler import POSITIVE, UNCERTAIN, label_reports
from sample import read
from studies.prompt_gain import exchanged_prompts
from training.pretraining import EveryStageLoss
from weights import Checkpoint

MOST_VALIDATED = 1000  # examples: enough for the loss, and validating must not cost more than training
MOST_JUDGED = 64  # of those, for the measure beside the loss


class Validation:
    """Examples that no step trains on, made once, so that every measurement asks for the same thing.

    Beside the loss there is one number that says what the loss is worth: "psnr" (dB) of rebuilt pictures in stage vae;
    "auc", the mean area under the ROC curve of the targets, in stage vit; "f1" (micro, by the labeler) of written
    reports in stage 1; "prompt_gain" (the mean of `prompt_gains`) in stages 2 and 3. Everything is computed by the main
    process, so it does not depend on their number.
    """

    def __init__(
        self, checkpoint: Checkpoint, losses: EveryStageLoss, examples: data.Examples, micro_batch: int
    ) -> None:
        """examples: those of the stage, of a source that it does not train on."""
        self.checkpoint, self.losses, self.examples = checkpoint, losses, examples
        count = min(len(examples.source), MOST_VALIDATED)
        count = max(count - count % sum(examples.mix), 1)
        order, collate = examples.by_length(range(count)), data.Collate(checkpoint.model.config)
        chunks = [order[i : i + micro_batch] for i in range(0, count, micro_batch)]
        self.batches = [collate([examples[position] for position in chunk]) for chunk in chunks]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """{"validate_loss": ..., "validate_" + the stage's measure: ...}"""
        device = self.checkpoint.model.vae2llm.weight.device
        batches = [{kind: part.to(device) for kind, part in batch.items()} for batch in self.batches]
        totals: dict[str, int] = {}
        for batch in batches:
            totals |= {kind: totals.get(kind, 0) + part.terms() for kind, part in batch.items()}
        loss = sum(self.losses(batch, totals)[0].item() for batch in batches)
        name, value = self.judge(batches)
        return {"validate_loss": loss, f"validate_{name}": value}

    def judge(self, batches: list[dict[str, Batch]]) -> tuple[str, float]:
        """The measure beside the loss: its name and its value."""
        checkpoint, source, stage = self.checkpoint, self.examples.source, self.examples.stage
        if stage == "vae":
            vae, found = checkpoint.vae, []
            for batch in batches[: MOST_JUDGED // len(batches[0]["rebuild"].index) + 1]:
                images = batch["rebuild"].image
                mean, _ = vae.posterior(vae.preprocess(images).to(checkpoint.model.compute_dtype))
                # Not normalised: how is measured anew in this stage.
                rebuilt = vae.postprocess(vae.decoder(vae.post_quant_conv(mean)))
                error = (rebuilt.float() - images.float()).square().mean(dim=(1, 2))
                found += (10 * torch.log10(255**2 / error.clamp(min=1e-3))).tolist()
            return "psnr", float(np.mean(found))
        if stage == "vit":
            logits = torch.cat([self.losses.phrase_logits(batch["see"]) for batch in batches]).cpu().numpy()
            truth = torch.cat([batch["see"].phrases for batch in batches]).cpu().numpy()
            areas = [metrics.area_under_roc(logits[:, k], truth[:, k]) for k in range(truth.shape[1])]
            return "auc", float(np.nanmean(areas)) if not np.isnan(areas).all() else 0.5
        if stage == "1":
            chosen, pictures = data.squares(source, MOST_JUDGED, checkpoint.model.config.vit.image_size)
            images = [Image.fromarray(picture) for picture in pictures]
            written = label_reports(read(checkpoint, images, max_new_tokens=160, batch=len(images)))
            truth = label_reports([source.text(i)[0] for i in chosen])
            claimed, true = (np.isin(labels, (POSITIVE, UNCERTAIN)) for labels in (written, truth))
            return "f1", float(2 * (claimed & true).sum() / max(1, claimed.sum() + true.sum()))
        gains = prompt_gains(checkpoint, source, self.examples.size, MOST_JUDGED)
        return "prompt_gain", float(np.mean([*gains.values()])) if gains else 0.0


@torch.no_grad()
def prompt_gains(checkpoint: Checkpoint, source: Phantoms | Records, size: int, count: int = 32) -> dict[str, float]:
    """The prompt gain on up to `count` examples, as it is logged: it says more than the loss does of whether a picture
    will show what its prompt asks for."""
    room = checkpoint.model.config.context_length - 2
    chosen, pictures = data.squares(source, count, size)
    texts = [checkpoint.encode(source.text(i)[1])[:room] for i in chosen]
    if len(texts) < 2:
        return {}
    gains = exchanged_prompts(checkpoint.model, checkpoint.vae, torch.from_numpy(np.stack(pictures)), texts)
    return {f"prompt_gain_{t}": gain for t, gain in gains.items()}
