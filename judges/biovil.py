"""BioViL (Boecking et al. 2022) and BioViL-T (Bannur et al. 2023): an image and a text -> how well they agree.

Two networks project to one space: a ResNet-50 reads the image, CXR-BERT the text. BioViL-T can compare an image with an
earlier one; where there is none, as here, a learned vector stands for the difference. `load_aligner` takes either
published folder. UniX's evaluation takes the defaults of hi-ml-multimodal 0.2.2, and those are BioViL-T.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers.implementations import BaseTokenizer
from torch import nn

from checkpoints.configs import our_shapes
from checkpoints.layouts import BIOVIL, BIOVIL_T, CXR_BERT
from checkpoints.plan import filled
from checkpoints.tensors import recognise
from judges.bert import Bert, bert_shapes, one_of_layout, read_wordpiece, tokenize


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
    """Without its classes."""

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
    """ResNet-50, projected patch by patch to the space shared with texts, then averaged.

    BioViL-T makes the patches narrower, `reduced` channels, and puts beside each the same learned vector: it stands for
    an earlier image that is not there, where a transformer would say how the patch has changed.
    """

    def __init__(self, width: int, reduced: int | None) -> None:
        super().__init__()
        self.resnet = ResNet50()
        if reduced:
            self.reduce = nn.Conv2d(2048, reduced, 1, bias=False)
            self.missing_previous = nn.Parameter(torch.zeros(1, reduced, 1, 1))
        first = nn.Conv2d(2 * reduced if reduced else 2048, width, 1, bias=False)
        self.projector = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, 3, H, W) in [0, 1] -> (B, width), unit length."""
        patches = self.resnet(x)
        if hasattr(self, "reduce"):
            patches = self.reduce(patches)
            patches = torch.cat([patches, self.missing_previous.expand_as(patches)], dim=1)
        return F.normalize(self.projector(patches).mean(dim=(2, 3)), dim=1)


class TextSide(nn.Module):
    """CXR-BERT: its [CLS] token, projected to the space shared with images."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], heads: int) -> None:
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

    RESIZE = 512  # px, the shorter side

    def __init__(self, image_side: ImageSide, text_side: TextSide, tokenizer: BaseTokenizer) -> None:
        super().__init__()
        compares = hasattr(image_side, "reduce")
        self.name, self.crop = ("BioViL-T", 448) if compares else ("BioViL", 480)  # crop: px of the centre that is seen
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
        """(3, crop, crop) in [0, 1], stretched to the full range first, as the published engine loads images."""
        grey = np.asarray(image, dtype=np.float64)
        grey = (grey - grey.min()) / max(grey.max() - grey.min(), 1e-6) * 255
        image = Image.fromarray(grey.astype(np.uint8))
        short = min(image.size)
        size = [int(self.RESIZE * side / short) for side in image.size]
        left, top = (round((side - self.crop) / 2) for side in size)
        image = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + self.crop, top + self.crop))
        return torch.from_numpy(np.array(image, dtype=np.float32) / 255).expand(3, -1, -1)


def load_aligner(folder: str | Path, device: str | torch.device = "cpu") -> Aligner:
    """Either published folder: the image side (biovil_image_resnet50_proj_size_128.pt of BioViL, or
    biovil_t_image_model_proj_size_128.pt of BioViL-T), and its CXR-BERT's weights, config and vocabulary."""
    tensors = one_of_layout(folder, BIOVIL, BIOVIL_T)
    layout = recognise(tensors)
    shapes = our_shapes(tensors, layout.translate)
    width, reduced = shapes["projector.0.weight"][0], shapes.get("reduce.weight", (256,))[0]
    network = partial(ImageSide, width, reduced if layout is BIOVIL_T else None)
    image_side = filled(network, tensors, layout.translate, device)
    tensors = one_of_layout(folder, CXR_BERT)
    shapes, heads = bert_shapes(tensors, CXR_BERT.translate)
    text_side = filled(lambda: TextSide(shapes, heads), tensors, CXR_BERT.translate, device)
    tokenizer = read_wordpiece(folder, shapes["word.weight"][0])
    return Aligner(image_side, text_side, tokenizer).eval().requires_grad_(False)
