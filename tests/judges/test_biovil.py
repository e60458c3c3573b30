"""BioViL's similarity against `transformers`' ResNet and BERT."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from references import MINILM, close
from transformers import (
    AutoTokenizer,
)

from judges.biovil import load_aligner
from phantoms.dataset import Phantoms


@torch.no_grad()
def test_the_aligner_computes_biovils_similarity(aligner_folder):
    folder, resnet, bert = aligner_folder
    aligner = load_aligner(folder)
    source = Phantoms(2)
    images = [Image.fromarray(source.image(0)), Image.fromarray(source.image(1)).resize((300, 400))]
    texts = ["Small left pleural effusion.", "No acute cardiopulmonary abnormality."]
    similarity = aligner(images, texts)

    pixels = torch.stack([aligner.pixels(image) for image in images])
    assert pixels.shape == (2, 3, 480, 480) and pixels.min() >= 0 and pixels.max() <= 1
    state = torch.load(folder / "biovil_image_resnet50_proj_size_128.pt", weights_only=True)
    p = {name.removeprefix("projector.model."): tensor for name, tensor in state.items()}
    patches = F.conv2d(resnet(pixels).last_hidden_state, p["0.weight"])
    patches = F.batch_norm(patches, p["1.running_mean"], p["1.running_var"], p["1.weight"], p["1.bias"])
    image_vectors = F.conv2d(F.relu(patches), p["3.weight"], p["3.bias"]).mean(dim=(2, 3))

    encoded = AutoTokenizer.from_pretrained(MINILM)([text.rstrip(".") for text in texts], padding=True)
    encoded = {name: torch.tensor(rows) for name, rows in encoded.items()}
    h = torch.load(folder / "pytorch_model.bin", weights_only=True)
    h = {name.removeprefix("cls_projection_head."): tensor for name, tensor in h.items()}
    text_vectors = bert(**encoded).last_hidden_state[:, 0]
    text_vectors = F.gelu(F.linear(text_vectors, h["dense_to_hidden.weight"], h["dense_to_hidden.bias"]))
    text_vectors = F.layer_norm(text_vectors, (128,), h["LayerNorm.weight"], h["LayerNorm.bias"], 1e-12)
    text_vectors = F.linear(text_vectors, h["dense_to_output.weight"], h["dense_to_output.bias"])
    close(similarity, F.cosine_similarity(image_vectors, text_vectors))
    assert not torch.allclose(similarity[0], similarity[1])


def test_images_are_resized_cropped_and_stretched_as_published(aligner_folder):
    aligner = load_aligner(aligner_folder[0])
    ramp = np.tile(np.linspace(50, 150, 512).astype(np.uint8), (1024, 1))  # 512 wide: the shorter side stays
    pixels = aligner.pixels(Image.fromarray(ramp))
    stretched = ((ramp.astype(float) - 50) / 100 * 255).astype(np.uint8)
    expected = stretched[272 : 272 + 480, 16 : 16 + 480] / 255
    assert np.abs(pixels[0].numpy() - expected).max() < 1e-6
