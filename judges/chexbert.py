"""CheXbert (Smit et al. 2020): a report -> the 14 labels that Table 2 compares. The folder is the published one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers.implementations import BaseTokenizer
from torch import nn

from checkpoints.layouts import CHEXBERT
from checkpoints.plan import filled
from common.observations import OBSERVATIONS
from judges.bert import Bert, bert_shapes, one_of_layout, read_wordpiece, tokenize
from reports.labeler import NEGATIVE, POSITIVE, UNCERTAIN, Label


class CheXbert(nn.Module):
    """A BERT with a linear head an observation (Smit et al. 2020): blank, positive, negative or uncertain; for "No
    Finding" only blank or positive."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], heads: int, tokenizer: BaseTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.bert = Bert(shapes, heads)
        width = shapes["word.weight"][1]
        self.heads = nn.ModuleList(nn.Linear(width, 2 if name == "No Finding" else 4) for name in OBSERVATIONS)

    @torch.no_grad()
    def forward(self, reports: Sequence[str], batch: int = 32) -> list[dict[str, Label]]:
        """Reports -> for each, observation -> Label, as the rule-based labeler gives them (without sides)."""
        meaning, device, labels = (None, POSITIVE, NEGATIVE, UNCERTAIN), self.heads[0].weight.device, []
        for start in range(0, len(reports), batch):
            texts = [" ".join(report.split()) for report in reports[start : start + batch]]
            ids, visible = (each.to(device) for each in tokenize(self.tokenizer, texts, self.bert.context_length))
            first = self.bert(ids, visible)[:, 0]  # [CLS]
            for row in torch.stack([head(first).argmax(dim=1) for head in self.heads], dim=1).tolist():
                labels.append({name: Label(meaning[k]) for name, k in zip(OBSERVATIONS, row, strict=True)})
        return labels


def load_chexbert(folder: str | Path, device: str | torch.device = "cpu") -> CheXbert:
    """A folder with chexbert.pth and bert-base-uncased's vocab.txt."""
    tensors = one_of_layout(folder, CHEXBERT)
    shapes, heads = bert_shapes(tensors, CHEXBERT.translate)
    tokenizer = read_wordpiece(folder, shapes["word.weight"][0])
    chexbert = filled(lambda: CheXbert(shapes, heads, tokenizer), tensors, CHEXBERT.translate, device)
    return chexbert.requires_grad_(False)
