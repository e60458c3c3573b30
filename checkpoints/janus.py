"""Plain Janus-Pro: what differs from UniX."""

from __future__ import annotations

from tokenizers import Tokenizer

from model import UniXConfig

JANUS_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user"
    " provides, and assist the user with a variety of tasks using natural language."
)


def janus_chat(tokenizer: Tokenizer, config: UniXConfig, question: str) -> tuple[list[int], list[int]]:
    """The conversation Janus-Pro was tuned on: the ids before and after the image's patches."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    def role(name: str) -> list[int]:
        special = tokenizer.token_to_id(name)
        return ids(name) if special is None else [special]

    before = [config.bos, *ids(JANUS_SYSTEM + "\n\n"), *role("<|User|>"), *ids(": "), config.boi]
    return before, [config.eoi, *ids(f"\n{question}\n\n"), *role("<|Assistant|>"), *ids(":")]
