"""A model of a few thousand parameters with all that a checkpoint needs, for tests of behaviour, not of quality."""

import pytest
import torch

import data
from micro import micro_config
from model import UniX
from phantoms.dataset import Phantoms
from published import golden_folder
from vae import VAE, VAEConfig
from weights import Checkpoint, save_checkpoint


@pytest.fixture(scope="session")
def micro():
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
    tokenizer = data.train_tokenizer([source.text(i)[0] for i in range(200)], config.vocab_size)
    return Checkpoint(model.eval(), vae.eval(), tokenizer)


@pytest.fixture(scope="session")
def micro_folder(micro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "micro"
    save_checkpoint(folder, micro)
    return folder


@pytest.fixture
def janus(micro, tmp_path):
    return golden_folder(tmp_path / "Janus-Pro", "janus_tiny", micro)
