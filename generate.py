"""Writing a report, token by token. Read this after the paper's seven files.

`naive_generate` is the idea: ask for the next token, append it, run the whole sequence again. `generate` gives the same
answers from keys and values that each layer keeps, for a batch of questions; `stream` is it while it writes.
`test_cached_decoding_is_the_naive_one` holds them together.

How a token is chosen from its logits is a function: `greedy`, or what `nucleus` makes.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from attention import KVCache
from model import UniX, pad

Choose = Callable[[torch.Tensor], torch.Tensor]  # logits of the next token (B, vocab_size) -> its ids (B,)


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row: (B, vocab_size) -> (B,)."""
    return logits.argmax(dim=-1)


@torch.inference_mode()
def naive_generate(
    model: UniX, pixels: torch.Tensor, question: Sequence[int], max_new_tokens: int = 256, choose: Choose = greedy
) -> list[int]:
    """One answer, each token from the whole sequence again. pixels: (1, 3, S, S), normalised; question: its token ids
    without special tokens -> the answer's, without EOS."""
    text = model.asked(question)
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        text_ids = torch.tensor([[*text, *answer]], device=pixels.device)
        logits = model.read_forward(pixels, text_ids)[:, -1]  # (1, vocab_size)
        token = choose(logits).item()
        if token == model.config.eos:
            break
        answer.append(token)
    return answer


@torch.inference_mode()
def stream(
    model: UniX,
    pixels: torch.Tensor,
    texts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    choose: Choose = greedy,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Decode until all rows have reached EOS: yields the next ids (B,) and the logits they were chosen from, (B,
    vocab_size). What a row says after its EOS means nothing.

    pixels: (B, 3, S, S). texts: B lists of ids of any lengths, which the answers follow: `model.asked(question)`.
    """
    text_ids, lengths = (each.to(pixels.device) for each in pad(texts, model.config.eos))
    x, position_ids, mask = model.reading_sequence(model.embed_image(pixels), text_ids)
    (B, T), S = text_ids.shape, x.shape[1]
    caches = [KVCache(capacity=S + max_new_tokens) for _ in model.layers]
    hidden, _, _ = model.run_layers(x, None, position_ids, mask, caches, update_cache=True)
    last = S - T + lengths - 1  # (B,) place of each text's last token, which the first new one follows
    hidden, position = hidden[torch.arange(B, device=x.device), last], position_ids[0, last]
    seen = None
    if lengths.min() < T:  # shorter texts leave padding in the cache, which answers must not see
        seen = F.pad(model.padding_mask(lengths, T), (S - T, max_new_tokens), value=True)

    finished = torch.zeros(B, dtype=torch.bool, device=x.device)
    for step in range(1, max_new_tokens + 1):
        logits = model.to_logits(hidden)
        ids = choose(logits)
        yield ids, logits
        finished |= ids == model.config.eos
        if finished.all() or step == max_new_tokens:
            return
        mask = None if seen is None else seen[..., : S + step]
        x, position_ids = model.embed(ids[:, None]), (position + step)[:, None]
        hidden = model.run_layers(x, None, position_ids, mask, caches, update_cache=True)[0][:, 0]


def whole_answers(steps: Iterator[tuple[torch.Tensor, torch.Tensor]], eos: int) -> list[list[int]]:
    """What `stream` yields -> the ids of each row, without EOS and what follows it."""
    rows = torch.stack([ids for ids, _ in steps], dim=1).tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def generate(
    model: UniX,
    pixels: torch.Tensor,
    questions: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    choose: Choose = greedy,
    begin: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Answers to B questions (token ids without special tokens) about B images, (B, 3, S, S): B lists of ids. begin:
    ids that each answer goes on from, and comes without."""
    begin = begin or [[]] * len(questions)
    texts = [[*model.asked(question), *first] for question, first in zip(questions, begin, strict=True)]
    return whole_answers(stream(model, pixels, texts, max_new_tokens, choose), model.config.eos)


def nucleus(temperature: float, top_p: float, seeds: Sequence[int]) -> Choose:
    """Tokens drawn from softmax(logits / temperature), of the smallest set whose probabilities reach `top_p` (Holtzman
    et al. 2020, section 3.1).

    temperature: above 0; below 1 favours likely tokens. top_p: in (0, 1]; 1 keeps all. seeds: one a row. A row takes
    one number a step from a generator of its own, on the CPU, so that it depends on no other row and on no device.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: torch.Tensor) -> torch.Tensor:
        p = (logits / temperature).softmax(dim=-1)
        falling, order = p.sort(dim=-1, descending=True)
        before = falling.cumsum(dim=-1) - falling  # what likelier tokens hold already
        p = p.masked_fill(torch.zeros_like(p, dtype=torch.bool).scatter(1, order, before >= top_p), 0)
        # In the order of the ids, not of p: two tokens as good as equal must not change places by a rounding.
        reached = p.double().cumsum(dim=-1) if p.device.type != "mps" else p.cumsum(dim=-1)
        u = torch.stack([torch.rand((), generator=g) for g in generators]).to(reached)[:, None]
        return (reached > u * reached[:, -1:]).int().argmax(dim=-1)  # the first of the largest

    return choose
