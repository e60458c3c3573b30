"""Janus-Pro: as itself, and as the start of a UniX.

As itself it reads films as published, a causal image at positions of its own inside a conversation, for parity
(`load_checkpoint(..., parity=True)`); nothing trains or draws with it.
"""

import re
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from checkpoints.layouts import Translate
from checkpoints.plan import Plan, load_tensors
from checkpoints.tensors import Tensors
from model import UniX, UniXConfig

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user"
    " provides, and assist the user with a variety of tasks using natural language."
)


class JanusPro(UniX):
    """[before patches after] causal, positions 0..n-1. before: the conversation's ids up to the patches, its BOI last;
    what follows the patches (its EOI, the question, what else `janus_chat` says) is the text of a question."""

    before: Sequence[int] = ()

    def embed_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """[before patches]: (B, 3, S, S) -> (B, P, width), where P counts both."""
        patches = self.connector(self.vit(pixels.to(self.compute_dtype)))
        before = self.embed(torch.tensor([[*self.before]], dtype=torch.long, device=pixels.device))
        return torch.cat([before.expand(len(patches), -1, -1), patches], dim=1)

    def reading_sequence(
        self, image: torch.Tensor, text_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `UniX.reading_sequence`, but causal from the first token on."""
        x = torch.cat([image, self.embed(text_ids)], dim=1)
        S = x.shape[1]
        mask = torch.ones(S, S, dtype=torch.bool, device=x.device).tril()
        return x, torch.arange(S, device=x.device)[None], mask

    def asked(self, question: Sequence[int]) -> list[int]:
        """All that follows the patches, as it is: a conversation has its special tokens in it."""
        return list(question)


def janus_chat(tokenizer: Tokenizer, config: UniXConfig, question: str) -> tuple[list[int], list[int]]:
    """The conversation Janus-Pro was tuned on: the ids before and after the image's patches."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    user, assistant = (
        ids(name) if (special := tokenizer.token_to_id(name)) is None else [special]
        for name in ("<|User|>", "<|Assistant|>")
    )
    before = [config.bos, *ids(SYSTEM + "\n\n"), *user, *ids(": "), config.boi]
    return before, [config.eoi, *ids(f"\n{question}\n\n"), *assistant, *ids(":")]


def absent_in_janus(name: str, given: dict) -> str | None:
    """How a UniX gets the tensor `name` that Janus-Pro does not have; None: it must be there.

    "new": whatever touches latents and time. "copied": the gen branch, from the und branch; QK norms at 1 and QKV
    biases at 0, which changes nothing that Janus computes; a tied output layer, if `given` (its config.json) says so.
    """
    if name.startswith(("time_embedder.", "vae2llm.", "llm2vae.")):
        return "new"
    if name == "lm_head.weight" and given.get("tie_word_embeddings"):
        return "copied"
    neutral = re.search(r"\.attn\.und\.(q_norm\.weight|k_norm\.weight|qkv\.bias)$", name)
    return "copied" if ".gen." in name or neutral else None


@torch.no_grad()
def start_from_janus(model: UniX, tensors: Tensors, translate: Translate, given: dict, seed: int = 0) -> Plan:
    """Fill `model` from a Janus-Pro file with config.json `given`, and make the rest (paper section 3.4)."""
    plan = load_tensors(model, tensors, translate, lambda name: absent_in_janus(name, given))
    state = model.state_dict()
    for name in plan.copied:
        if ".und." in name:
            state[name].fill_(1.0 if name.endswith("norm.weight") else 0.0)
    if "lm_head.weight" in plan.copied:
        model.lm_head.weight.copy_(model.embed_tokens.weight)
    model.copy_und_to_gen()
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(plan.new):
        zero = name.startswith("llm2vae.") or name.endswith("bias")  # the first velocity is 0: no jump at the start
        state[name].copy_(torch.empty(state[name].shape).normal_(0.0, 0.0 if zero else 0.02, generator=generator))
    return plan
