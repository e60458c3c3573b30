"""A model of a few thousand parameters with all that a checkpoint needs, for tests of behaviour, not of quality."""

import torch

from model import UniX, UniXConfig
from phantoms.dataset import Phantoms
from training.tokenizer import train_tokenizer
from vae import VAE, VAEConfig
from vit import ViTConfig
from weights import Checkpoint


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
        recipe="tiny",
        wording="plain",
        bos=0,
        eos=1,
        boi=2,
        eoi=3,
        vit=ViTConfig(image_size=64, width=32, layers=2, heads=4, mlp_width=64),
    )


def micro_checkpoint():
    """Random weights, none of them at a special value (a zero velocity would hide mistakes)."""
    torch.manual_seed(0)
    config = micro_config()
    model, vae = UniX(config), VAE(VAEConfig(ch=32, num_res_blocks=1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.dim() > 1 else 0.1
            parameter.copy_(
                torch.randn_like(parameter) * scale + (1.0 if "norm" in name and "bias" not in name else 0.0)
            )
    source = Phantoms(200)
    tokenizer = train_tokenizer([source.text(i)[0] for i in range(200)], config.vocab_size)
    return Checkpoint(model.eval(), vae.eval(), tokenizer)
