"""How the model of a run does while it trains: on examples that no step trains on, and whether it heeds its prompts."""

from __future__ import annotations

import numpy as np
import torch

import data
from archives.records import squares
from studies.prompt_gain import exchanged_prompts
from training.pretraining import EveryStageLoss
from weights import Checkpoint

MOST_VALIDATED = 1000  # examples: enough for the loss, and validating must not cost more than training


class Validation:
    """train.py --validate: examples that no step trains on, made once, so that every measurement asks for the same.

    All is computed by the main process, so it does not depend on their number.
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
        """{"validate_loss": ..., and its parts}"""
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
        return {f"validate_{name}": value for name, value in found.items()}


@torch.no_grad()
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
