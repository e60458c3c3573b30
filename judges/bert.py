"""BERT (Devlin et al. 2018) and its WordPiece tokenizer: what CheXbert and CXR-BERT are built on.

The sizes come from a checkpoint's own tensors. `judges/chexbert.py` and `judges/biovil.py` load the published files.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers.implementations import BaseTokenizer, BertWordPieceTokenizer
from torch import nn

from checkpoints.configs import check_computed, check_depth, depth, our_shapes, read_from, require
from checkpoints.layouts import Layout, Translate
from checkpoints.tensors import PICKLES, Tensors, recognise
from common.errors import UserError
from common.files import read_json


class BertBlock(nn.Module):
    """Post-norm, as the first transformers were: the norm comes after each residual sum."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        B, S, _ = x.shape
        q, k, v = self.qkv(x).view(B, S, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.proj(attended))
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x))))


class Bert(nn.Module):
    """BERT's encoder (Devlin et al. 2018), without pooler. Sizes come from the checkpoint's own shapes."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], heads: int) -> None:
        """shapes: our names -> the file's shapes."""
        super().__init__()
        (vocab_size, width), self.context_length = shapes["word.weight"], shapes["position.weight"][0]
        hidden, layers = shapes["blocks.0.fc1.weight"][0], depth(shapes, "blocks.")
        self.word, self.position = nn.Embedding(vocab_size, width), nn.Embedding(self.context_length, width)
        self.token_type = nn.Embedding(shapes["token_type.weight"][0], width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BertBlock(width, hidden, heads) for _ in range(layers))

    def forward(self, ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """ids: (B, S), visible: (B, S) bool, False at padding -> (B, S, width)."""
        x = self.word(ids) + self.position.weight[: ids.shape[1]] + self.token_type.weight[0]
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, visible[:, None, None, :])
        return x


def read_wordpiece(folder: str | Path, vocab_size: int) -> BaseTokenizer:
    """BERT's tokenizer from a folder's vocab.txt (lower-cased English).

    vocab_size: the model's. Raises UserError for another vocabulary.
    """
    path = Path(folder) / "vocab.txt"
    try:
        words = path.read_bytes().decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: needs a vocab.txt (bert-base-uncased's) as well") from error
    if not {"[UNK]", "[CLS]", "[SEP]"} <= set(words):
        raise UserError(f"{path}: no vocabulary of BERT ([UNK], [CLS] and [SEP] are wanted)")
    if len(words) != vocab_size:
        raise UserError(f"{path}: has {len(words)} words, the model {vocab_size}; fetch that of these weights")
    return BertWordPieceTokenizer({word: i for i, word in enumerate(words)}, lowercase=True)


def tokenize(tokenizer: BaseTokenizer, texts: Sequence[str], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts -> [CLS] text [SEP], padded: ids and visible, both (B, S). A longer one is cut, and keeps its [SEP]."""
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(list(texts))
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows]).bool()


def bert_shapes(tensors: Tensors, translate: Translate) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes without the prefix `bert.`, and the number of heads: config.json tells, else 64 channels each as BERT has.

    Raises UserError if this is no whole BERT, or not the one that config.json describes.
    """
    shapes = {name.removeprefix("bert."): shape for name, shape in our_shapes(tensors, translate).items()}
    with read_from(tensors, "BERT"):
        for name in ("word", "position", "token_type", "blocks.0.fc1"):
            _, width = shapes[f"{name}.weight"]
    path = tensors.path.parent / "config.json"
    given = read_json(path, absent={})
    known = {"hidden_act": ["gelu"], "layer_norm_eps": [1e-12], "position_embedding_type": ["absolute"]}
    check_computed(given, path, "BERT", **known)
    check_depth(depth(shapes, "blocks."), given, "BERT", tensors, path)
    heads = given.get("num_attention_heads", max(1, width // 64))
    right = type(heads) is int and heads >= 1 and width % heads == 0
    require(right, path, f"num_attention_heads is {heads}; it must divide the width, {width}")
    return shapes, heads


def one_of_layout(folder: str | Path, *wanted: Layout) -> Tensors:
    """The one file of a folder that holds a wanted layout."""
    files = [file for file in sorted(Path(folder).glob("*")) if file.suffix in (".safetensors", *PICKLES)]
    for tensors in map(Tensors, files):
        if recognise(tensors) in wanted:
            return tensors
    held = ", ".join(file.name for file in files) or "no weights at all"
    raise UserError(f"{folder}: no {' or '.join(one.holds for one in wanted)} in it, only {held}")
