"""The config of a model of a few thousand parameters, with all that a checkpoint needs."""

from model import UniXConfig
from vit import ViTConfig


def micro_config():
    return UniXConfig(
        hidden_size=64,
        intermediate_size=96,
        num_layers=3,
        num_heads=4,
        vocab_size=400,
        context_length=64,
        max_latent_size=8,
        repa_layer=2,
        image_size=64,
        bos=0,
        eos=1,
        boi=2,
        eoi=3,
        vit=ViTConfig(image_size=64, width=32, layers=2, heads=4, mlp_width=64),
    )
