"""How the model of a run does while it trains: on examples that no step trains on, and whether it heeds its prompts."""

import numpy as np
import torch
from PIL import Image

import data
from archives.records import squares
from evaluation import metrics
from reports.labeler import label_reports
from sample import read
from training.pretraining import EveryStageLoss
from training.prompt_gain import exchanged_prompts
from weights import Checkpoint

MOST_VALIDATED = 1000  # examples: enough for the loss, and validating must not cost more than training
MOST_JUDGED = 64  # of those, for the reports that are written


class Validation:
    """train.py --validate: examples that no step trains on, made once, so that every measurement asks for the same.

    Beside the loss and its parts, one number of what they are worth: "auc", the mean area under the ROC curve of the
    targets, in stage vit; "f1" (micro, by the labeler) of written reports in stage 1. All is computed by the main
    process, so it does not depend on their number.
    """

    def __init__(
        self, checkpoint: Checkpoint, losses: EveryStageLoss, examples: data.Examples, micro_batch: int
    ) -> None:
        """examples: those of the stage, of a source that it does not train on."""
        self.checkpoint, self.losses, self.examples = checkpoint, losses, examples
        count = min(len(examples.source), MOST_VALIDATED)
        count = max(count - count % sum(examples.mix), 1)
        order, config = examples.by_length(range(count)), checkpoint.model.config
        chunks = [order[i : i + micro_batch] for i in range(0, count, micro_batch)]
        self.batches = [data.collate(config, [examples[position] for position in chunk]) for chunk in chunks]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """{"validate_loss": ..., and its parts, and the stage's number}"""
        device = self.checkpoint.model.vae2llm.weight.device
        batches = [{kind: part.to(device) for kind, part in batch.items()} for batch in self.batches]
        totals: dict[str, int] = {}
        for batch in batches:
            totals |= {kind: totals.get(kind, 0) + part.terms() for kind, part in batch.items()}
        found = {"loss": 0.0}
        for batch in batches:
            loss, parts = self.losses(batch, totals)
            for name, value in {"loss": loss, **parts}.items():
                found[name] = found.get(name, 0.0) + value.item()
        if self.examples.stage == "vit":
            logits = torch.cat([self.losses.phrase_logits(batch["see"]) for batch in batches]).cpu().numpy()
            truth = torch.cat([batch["see"].phrases for batch in batches]).cpu().numpy()
            areas = [metrics.area_under_roc(logits[:, k], truth[:, k]) for k in range(truth.shape[1])]
            found["auc"] = float(np.nanmean(areas)) if not np.isnan(areas).all() else 0.5
        if self.examples.stage == "1":
            source, vit = self.examples.source, self.checkpoint.model.config.vit
            chosen, pictures = squares(source, MOST_JUDGED, vit.image_size, vit.padding, vit.scaling)
            images = [Image.fromarray(picture) for picture in pictures]
            written = label_reports(read(self.checkpoint, images, max_new_tokens=160, batch=len(images)))
            truth = label_reports([source.text(i)[0] for i in chosen])
            claimed, true = (metrics.positives(labels, "positive") for labels in (written, truth))
            found["f1"] = metrics.f1_scores(true, claimed, undefined=0.0).micro
        return {f"validate_{name}": value for name, value in found.items()}


def prompt_gains(checkpoint: Checkpoint, examples: data.Examples, count: int = 32) -> dict[str, float]:
    """Of up to `count` examples of a stage that draws. They say more than the loss does of whether a picture will show
    what its prompt asks for."""
    room = checkpoint.model.config.context_length - 2
    chosen, pictures = squares(examples.source, count, examples.size)
    texts = [checkpoint.encode(examples.source.text(i)[1])[:room] for i in chosen]
    if len(texts) < 2:
        return {}
    gains = exchanged_prompts(checkpoint.model, checkpoint.vae, torch.from_numpy(np.stack(pictures)), texts)
    return {f"prompt_gain_{t}": gain for t, gain in gains.items()}
