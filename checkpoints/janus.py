"""Plain Janus-Pro, before it becomes a UniX: a causal image at positions of its own, inside a conversation.

It reads films as published, for parity (`load_checkpoint(..., parity=True)`); nothing trains or draws with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

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

    def role(name: str) -> list[int]:
        special = tokenizer.token_to_id(name)
        return ids(name) if special is None else [special]

    before = [config.bos, *ids(SYSTEM + "\n\n"), *role("<|User|>"), *ids(": "), config.boi]
    return before, [config.eoi, *ids(f"\n{question}\n\n"), *role("<|Assistant|>"), *ids(":")]
