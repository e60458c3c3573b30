"""The published judges, frozen: what they make of an image or a report is what generated ones are measured by.

    RadDino    an image -> patch and class features: REPA's target, and the space of Fréchet distances    load_raddino
    CheXbert   a report -> 14 labels (Smit et al. 2020)                                                  load_chexbert
    BioViL     an image and a text -> how well they agree (Boecking et al. 2022)                         load_aligner

Each loader takes the folder as it was published (README says where from). Nothing here is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import BertProcessing
from torch import nn

from errors import UserError
from labeler import NEGATIVE, POSITIVE, UNCERTAIN, Label
from layouts import BIOVIL, CHEXBERT, CXR_BERT, DINOV2, SIGLIP, Layout, Translate, translate_bert
from phantom import OBSERVATIONS
from vit import VisionTransformer
from weights import (
    PICKLES,
    Tensors,
    depth,
    empty,
    load_tensors,
    our_shapes,
    read_json,
    read_tokenizer,
    recognise,
    vit_config,
)

# ---- images: RadDino ---------------------------------------------------------------------------------------------


def load_vit(folder: str | Path, device: str | torch.device = "cpu") -> VisionTransformer:
    """SigLIP's vision model or a DINOv2, as `transformers` saves them -> the one ViT of this project, float32."""
    tensors = Tensors(folder)
    layout = recognise(tensors)
    if layout not in (SIGLIP, DINOV2):
        raise UserError(f"{tensors.path}: holds {layout.holds}; a SigLIP or a RadDino is wanted")
    given = read_json(tensors.path.parent / "config.json")
    given = given.get("vision_config", given)  # a whole SigLIP describes its text model as well
    if not given:
        raise UserError(f"{tensors.path.parent / 'config.json'}: missing; it tells the number of heads")
    config = vit_config(our_shapes(tensors, layout.translate), given)
    preprocessing = read_json(tensors.path.parent / "preprocessor_config.json")
    default = (0.5307, 0.2583) if layout is DINOV2 else (0.5, 0.5)  # grey values, RadDino's and SigLIP's
    config.mean = float(np.mean(preprocessing.get("image_mean", default[0])))
    config.std = float(np.mean(preprocessing.get("image_std", default[1])))
    vit = empty(lambda: VisionTransformer(config), device, torch.float32)
    load_tensors(vit, tensors, layout.translate)
    return vit.eval().requires_grad_(False)


class RadDino(nn.Module):
    """RadDino (Pérez-García et al. 2025): features of chest X-rays, learned without labels. Patches of 14 px."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    @torch.no_grad()
    def forward(self, images: torch.Tensor, side: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """images: (B, S, S) grey uint8 -> the pooled class token (B, width) and patch features (B, side^2, width).

        side: patches along a side (default: 37, as trained at 518 px); the image is resized to 14 * side px and the
        table of positions interpolated, so that for REPA the patches lie on the latents' grid.
        """
        config = self.vit.config
        pixels = (side or self.vit.side) * config.patch_size
        x = images[:, None].to(self.vit.pos_embed.device, torch.float32)
        if x.shape[-1] != pixels:
            x = F.interpolate(x, size=(pixels, pixels), mode="bicubic", antialias=True, align_corners=False)
        x = (x.clamp(0, 255) / 255 - config.mean) / config.std
        tokens = self.vit.tokens(x.expand(-1, 3, -1, -1))
        return tokens[:, 0], tokens[:, 1:]


def load_raddino(folder: str | Path, device: str | torch.device = "cpu") -> RadDino:
    """The published folder: model.safetensors, config.json and preprocessor_config.json."""
    vit = load_vit(folder, device)
    if not vit.config.class_token:
        raise UserError(f"{folder}: is a SigLIP, not RadDino")
    return RadDino(vit)


# ---- text: BERT --------------------------------------------------------------------------------------------------


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

    def __init__(self, shapes: dict[str, tuple[int, ...]], heads: int | None = None) -> None:
        """shapes: our names -> the file's shapes. heads: default 64 channels each, as BERT has them."""
        super().__init__()
        (vocab_size, width), self.context_length = shapes["word.weight"], shapes["position.weight"][0]
        hidden, layers = shapes["blocks.0.fc1.weight"][0], depth(shapes, "blocks.")
        self.word, self.position = nn.Embedding(vocab_size, width), nn.Embedding(self.context_length, width)
        self.token_type = nn.Embedding(shapes["token_type.weight"][0], width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BertBlock(width, hidden, heads or width // 64) for _ in range(layers))

    def forward(self, ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """ids: (B, S), visible: (B, S) bool, False at padding -> (B, S, width)."""
        x = self.word(ids) + self.position.weight[: ids.shape[1]] + self.token_type.weight[0]
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, visible[:, None, None, :])
        return x


def read_wordpiece(folder: str | Path) -> Tokenizer:
    """BERT's tokenizer from a folder's tokenizer.json, else from its vocab.txt (lower-cased English)."""
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_tokenizer(folder / "tokenizer.json")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
    try:
        words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{folder}: needs a vocab.txt (bert-base-uncased's) or tokenizer.json as well") from error
    vocabulary = {word: i for i, word in enumerate(words)}
    if not {"[UNK]", "[CLS]", "[SEP]"} <= vocabulary.keys():
        raise UserError(f"{folder / 'vocab.txt'}: no vocabulary of BERT ([UNK], [CLS] and [SEP] are wanted)")
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts -> [CLS] text [SEP], padded: ids and visible, both (B, S). A longer one is cut, and keeps its [SEP]."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    rows = [row if len(row) <= longest else [*row[: longest - 1], row[-1]] for row in rows]
    S = max(map(len, rows))
    ids = torch.tensor([row + [0] * (S - len(row)) for row in rows])
    visible = torch.arange(S) < torch.tensor([len(row) for row in rows])[:, None]
    return ids, visible


def bert_shapes(tensors: Tensors, translate: Translate, folder: Path) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Shapes without the prefix `bert.`, and the number of heads that config.json tells, if there is one."""
    shapes = {name.removeprefix("bert."): shape for name, shape in our_shapes(tensors, translate).items()}
    if not {"word.weight", "position.weight", "token_type.weight", "blocks.0.fc1.weight"} <= shapes.keys():
        raise UserError(f"{tensors.path}: no whole BERT in it")
    return shapes, read_json(folder / "config.json").get("num_attention_heads")


def load_bert(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Bert, Tokenizer]:
    """A plain BERT's folder (model.safetensors or pytorch_model.bin, config.json, tokenizer.json or vocab.txt)."""
    tensors = Tensors(folder)
    shapes, heads = bert_shapes(tensors, translate_bert, Path(folder))
    bert = empty(lambda: Bert(shapes, heads), device, torch.float32)
    load_tensors(bert, tensors, translate_bert)
    return bert.eval().requires_grad_(False), read_wordpiece(folder)


class CheXbert(nn.Module):
    """A BERT with a linear head an observation (Smit et al. 2020): blank, positive, negative or uncertain; for "No
    Finding" only blank or positive."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], heads: int | None, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.bert = Bert(shapes, heads)
        width = shapes["word.weight"][1]
        self.heads = nn.ModuleList(nn.Linear(width, 2 if name == "No Finding" else 4) for name in OBSERVATIONS)

    @torch.no_grad()
    def classes(self, reports: Sequence[str]) -> torch.Tensor:
        """(B, 14) classes: 0 blank, 1 positive, 2 negative, 3 uncertain."""
        texts = [" ".join(report.split()) for report in reports]
        device = self.heads[0].weight.device
        ids, visible = (each.to(device) for each in tokenize(self.tokenizer, texts, self.bert.context_length))
        first = self.bert(ids, visible)[:, 0]  # [CLS]
        return torch.stack([head(first).argmax(dim=1) for head in self.heads], dim=1)

    def forward(self, reports: Sequence[str], batch: int = 32) -> list[dict[str, Label]]:
        """Reports -> for each, observation -> Label, as the rule-based labeler gives them (without sides)."""
        meaning = (None, POSITIVE, NEGATIVE, UNCERTAIN)
        labels = []
        for start in range(0, len(reports), batch):
            for row in self.classes(reports[start : start + batch]).tolist():
                labels.append({name: Label(meaning[k]) for name, k in zip(OBSERVATIONS, row, strict=True)})
        return labels


def load_chexbert(folder: str | Path, device: str | torch.device = "cpu") -> CheXbert:
    """A folder with chexbert.pth and bert-base-uncased's vocab.txt (or tokenizer.json)."""
    tensors = one_of_layout(folder, CHEXBERT)
    shapes, heads = bert_shapes(tensors, CHEXBERT.translate, Path(folder))
    tokenizer = read_wordpiece(folder)
    chexbert = empty(lambda: CheXbert(shapes, heads, tokenizer), device, torch.float32)
    load_tensors(chexbert, tensors, CHEXBERT.translate)
    return chexbert.eval().requires_grad_(False)


def one_of_layout(folder: str | Path, wanted: Layout) -> Tensors:
    """The one file of a folder that holds the wanted layout."""
    files = [file for file in sorted(Path(folder).glob("*")) if file.suffix in (".safetensors", *PICKLES)]
    for file in files:
        tensors = Tensors(file)
        if recognise(tensors) is wanted:
            return tensors
    held = f"only {', '.join(file.name for file in files)}" if files else "no weights at all"
    raise UserError(f"{folder}: no {wanted.holds} in it, {held}")


# ---- images and text: BioViL -------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """ResNet's residual block (He et al. 2016) with the stride in its 3x3 convolution. Names after torchvision."""

    def __init__(self, c_in: int, c_mid: int, stride: int) -> None:
        super().__init__()
        c_out = 4 * c_mid
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_mid, 1, bias=False), nn.BatchNorm2d(c_mid)
        self.conv2, self.bn2 = nn.Conv2d(c_mid, c_mid, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_mid)
        self.conv3, self.bn3 = nn.Conv2d(c_mid, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
        self.downsample = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.downsample(x))


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        c_in = 64
        for i, (blocks, c_mid) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            layer = []
            for j in range(blocks):
                layer.append(Bottleneck(c_in, c_mid, stride=2 if i > 0 and j == 0 else 1))
                c_in = 4 * c_mid
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, 3, H, W) -> (B, 2048, H/32, W/32)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ImageSide(nn.Module):
    """ResNet-50, projected patch by patch to the space shared with texts, then averaged."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.resnet = ResNet50()
        self.projector = nn.Sequential(
            nn.Conv2d(2048, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, 3, H, W) in [0, 1] -> (B, width), unit length."""
        return F.normalize(self.projector(self.resnet(x)).mean(dim=(2, 3)), dim=1)


class TextSide(nn.Module):
    """CXR-BERT: its [CLS] token, projected to the space shared with images."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], heads: int | None) -> None:
        super().__init__()
        self.bert = Bert(shapes, heads)
        width, shared = shapes["word.weight"][1], shapes["projection.0.weight"][0]
        self.projection = nn.Sequential(
            nn.Linear(width, shared), nn.GELU(), nn.LayerNorm(shared, eps=1e-12), nn.Linear(shared, shared)
        )

    def forward(self, ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """ids, visible: (B, S) -> (B, width), unit length."""
        return F.normalize(self.projection(self.bert(ids, visible)[:, 0]), dim=1)


class Aligner(nn.Module):
    """How well an image and a text agree: the cosine between their projections, in [-1, 1]."""

    RESIZE, CROP = 512, 480  # px: the shorter side, then the centre

    def __init__(self, image_side: ImageSide, text_side: TextSide, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.image_side, self.text_side, self.tokenizer = image_side, text_side, tokenizer

    @torch.no_grad()
    def forward(self, images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        """N 8-bit grey Pillow images and N texts -> (N,) similarities of the pairs."""
        device = self.image_side.projector[0].weight.device
        pixels = torch.stack([self.pixels(image) for image in images]).to(device)
        # The published text engine drops the punctuation at the end of a prompt.
        stripped = [text.rstrip("!?.") for text in texts]
        ids, visible = tokenize(self.tokenizer, stripped, self.text_side.bert.context_length)
        return (self.image_side(pixels) * self.text_side(ids.to(device), visible.to(device))).sum(dim=1)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """(3, 480, 480) in [0, 1], stretched to the full range first, as the published engine loads images."""
        grey = np.asarray(image, dtype=np.float64)
        grey = (grey - grey.min()) / max(grey.max() - grey.min(), 1e-6) * 255
        image = Image.fromarray(grey.astype(np.uint8))
        short = min(image.size)
        size = [int(self.RESIZE * side / short) for side in image.size]
        left, top = (round((side - self.CROP) / 2) for side in size)
        image = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + self.CROP, top + self.CROP))
        return torch.from_numpy(np.array(image, dtype=np.float32) / 255).expand(3, -1, -1)


def load_aligner(folder: str | Path, device: str | torch.device = "cpu") -> Aligner:
    """The published folder: biovil_image_resnet50_proj_size_128.pt, and CXR-BERT's weights, config and vocabulary."""
    image_tensors = one_of_layout(folder, BIOVIL)
    text_tensors = one_of_layout(folder, CXR_BERT)
    width = our_shapes(image_tensors, BIOVIL.translate).get("projector.0.weight", (128,))[0]
    image_side = empty(lambda: ImageSide(width), device, torch.float32)
    load_tensors(image_side, image_tensors, BIOVIL.translate)
    shapes, heads = bert_shapes(text_tensors, CXR_BERT.translate, Path(folder))
    text_side = empty(lambda: TextSide(shapes, heads), device, torch.float32)
    load_tensors(text_side, text_tensors, CXR_BERT.translate)
    return Aligner(image_side, text_side, read_wordpiece(folder)).eval().requires_grad_(False)
