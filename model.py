"""UniX: one decoder with two sets of weights (Zhang et al., arXiv paper sections 3.1-3.3).

The *understanding* branch ("und") is a SigLIP ViT, a connector and a Llama-style LLM, from Janus-Pro: it reads an image
or a prompt autoregressively. The *generation* branch ("gen") is a second copy of the LLM's layers that turns noisy VAE
latents into a velocity. Every layer attends over both (`attention.py`).

Sequences, with the special tokens BOS, EOS, BOI (image start), EOI (image end):
    drawing:  [BOS prompt EOS] causal, positions -T..-1 | [BOI latents EOI] all at position 0, full attention
    reading:  [BOI patches EOI] all at position 0, full attention | [BOS question EOS BOS answer EOS] causal from 1
    Janus:    [text patches text] causal, positions 0..n-1: Janus-Pro before it became a UniX (config.causal)

`python model.py` prints the parameter counts of each preset without allocating anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention import JointAttention, KVCache, rotary_table
from layers import ActivateAndDown, Linear, RMSNorm
from vit import VisionTransformer, ViTConfig

IGNORE = -100  # a target that carries no loss, as in torch's cross entropy


@dataclass
class UniXConfig:
    """Sizes and token ids. Defaults: the published 1.5B model. Travels with the weights as config.json."""

    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_layers: int = 24
    num_heads: int = 16
    vocab_size: int = 102400
    context_length: int = 16384  # tokens of text the rotary positions were trained for
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    qk_norm: bool = True
    qkv_bias: bool = True
    connector_act: str = "gelu_tanh"  # "gelu" (exact) in Janus-Pro
    causal: bool = False  # plain Janus-Pro: a causal image at positions of its own
    latent_channels: int = 16
    max_latent_size: int = 32  # side of the table of latent positions
    repa_layer: int = 8  # the hidden states after this layer meet the image encoder's features
    image_size: int = 512  # px; what the generation branch was last trained to draw
    bos: int = 100000
    eos: int = 100001
    boi: int = 100003
    eoi: int = 100580
    vit: ViTConfig = field(default_factory=ViTConfig)

    @classmethod
    def from_dict(cls, values: dict) -> UniXConfig:
        return cls(**{**values, "vit": ViTConfig(**values["vit"])})

    def to_dict(self) -> dict:
        return asdict(self)


def preset(name: str) -> UniXConfig:
    """ "unix": the paper's 1.5B model. "tiny": the same code at a size a laptop trains."""
    if name == "unix":
        return UniXConfig()
    if name == "tiny":
        return UniXConfig(
            hidden_size=256,
            intermediate_size=704,
            num_layers=6,
            num_heads=4,
            vocab_size=768,
            context_length=512,
            repa_layer=3,
            image_size=256,
            bos=0,
            eos=1,
            boi=2,
            eoi=3,
            vit=ViTConfig(image_size=128, width=192, layers=4, heads=4, mlp_width=768),
        )
    raise ValueError(f"no preset {name!r}: choose tiny or unix")


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x)), gate and up fused in this order."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ActivateAndDown.apply(self.gate_up(x), self.down.weight.to(x.dtype))


class Branch(nn.Module):
    """What a decoder layer has per modality besides its attention projections: two norms and an MLP."""

    def __init__(self, config: UniXConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)


class DecoderLayer(nn.Module):
    """A Llama layer with two branches that meet in the attention."""

    def __init__(self, config: UniXConfig) -> None:
        super().__init__()
        self.und, self.gen = Branch(config), Branch(config)
        self.attn = JointAttention(
            config.hidden_size, config.num_heads, config.qk_norm, config.qkv_bias, config.rms_norm_eps
        )

    def forward(
        self, und: torch.Tensor, gen: torch.Tensor | None, **attention: object
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """und: (B, U, width), gen: (B, G, width) or None -> the same; `attention`: JointAttention's arguments."""
        normed_gen = None if gen is None else self.gen.attn_norm(gen)
        attended_und, attended_gen = self.attn(self.und.attn_norm(und), normed_gen, **attention)
        und = und + attended_und
        und = und + self.und.mlp(self.und.mlp_norm(und))
        if gen is not None:
            gen = gen + attended_gen
            gen = gen + self.gen.mlp(self.gen.mlp_norm(gen))
        return und, gen


class Connector(nn.Module):
    """Two linear layers from the ViT's width to the LLM's (section 4.1)."""

    def __init__(self, config: UniXConfig) -> None:
        super().__init__()
        gelu = nn.GELU(approximate="tanh" if config.connector_act == "gelu_tanh" else "none")
        self.layers = nn.Sequential(
            Linear(config.vit.width, config.hidden_size), gelu, Linear(config.hidden_size, config.hidden_size)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


class TimeEmbedder(nn.Module):
    """256 sinusoids of t in [0, 1] (cosines, then sines; longest period 10000), then Linear, SiLU, Linear."""

    def __init__(self, width: int, sinusoids: int = 256) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.mlp = nn.Sequential(Linear(sinusoids, width), nn.SiLU(), Linear(width, width))

    def forward(self, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """t: (B,) float32 -> (B, width) of `dtype`."""
        half = self.sinusoids // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = t.float()[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype))


def latent_position_table(side: int, width: int) -> torch.Tensor:
    """2-D sine-cosine positions, (side, side, width) by row and column; the first half of the width encodes the column.

    Fixed, not trained. A picture of h x w latents uses the table's upper left corner, so that stage 3's larger grid
    only uses more of it: this is "extending the positional encoding" (section 3.4).
    """
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width / 4))
    angles = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * omega
    axis = torch.cat([angles.sin(), angles.cos()], dim=1).float()  # (side, width / 2)
    column, row = axis[None].expand(side, -1, -1), axis[:, None].expand(-1, side, -1)
    return torch.cat([column, row], dim=2)


def pack(
    sequences: Sequence[Sequence[int]], length: int, padding: int
) -> tuple[list[list[tuple[int, int, int]]], list[tuple[int, int]]]:
    """Sequences of tokens, none longer than `length`, into rows of `length`: first fit, the longest first.

    Returns for each place of each row (its token, its position before the end of its sequence: -n..-1, the index of its
    sequence: -1 at padding), and for each sequence (its row, where in it it starts).
    """
    rows, starts = [], [(0, 0)] * len(sequences)
    for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
        n = len(sequences[i])
        row = next((row for row in rows if len(row) + n <= length), None)
        if row is None:
            rows.append(row := [])
        starts[i] = rows.index(row), len(row)
        row += [(token, place - n, i) for place, token in enumerate(sequences[i])]
    return [row + [(padding, 0, -1)] * (length - len(row)) for row in rows], starts


@dataclass
class Prompt:
    """A batch of prompts as the image block sees them: their keys and values, computed once for all noise levels."""

    caches: list[KVCache]  # one a layer, (B, heads, T, head_dim)
    visible: torch.Tensor | None  # (B, 1, 1, T) bool, False at padding; None where there is none


class UniX(nn.Module):
    """The whole model but for the VAE. `compute_dtype` is what activations have, whatever the weights are kept in."""

    def __init__(self, config: UniXConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.checkpoint_activations = False  # training: keep only each layer's input and compute the rest again
        width = config.hidden_size
        # Zeros, as a checkpoint or `init_weights` fills it: on the meta device a normal draw imports torch's compiler.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.zeros(config.vocab_size, width), freeze=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.ModuleDict({branch: RMSNorm(width, config.rms_norm_eps) for branch in ("und", "gen")})
        self.lm_head = Linear(width, config.vocab_size, bias=False)
        self.vit, self.connector = VisionTransformer(config.vit), Connector(config)
        self.time_embedder = TimeEmbedder(width)
        self.vae2llm = Linear(config.latent_channels, width)
        self.llm2vae = Linear(width, config.latent_channels)
        self.register_buffer("latent_positions", torch.empty(0), persistent=False)
        self.reset_tables()

    def reset_tables(self) -> None:
        """(Re)compute what is fixed by the config, after a checkpoint gave a meta-device model its memory."""
        table = latent_position_table(self.config.max_latent_size, self.config.hidden_size)
        self.latent_positions = table.to(self.vae2llm.weight.device)

    def init_weights(self, generator: torch.Generator) -> None:
        """From scratch: normal(0, 0.02), residual outputs scaled down by depth (GPT-2), zero biases and velocity."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual_out = name.endswith(("out.weight", "down.weight", "proj.weight", "fc2.weight"))
                depth = self.config.vit.layers if name.startswith("vit.") else self.config.num_layers
                std = 0.02 / math.sqrt(2 * depth) if residual_out and "patch_embed" not in name else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.llm2vae.weight)
        # A ViT that must learn to see from little data should not have to learn where its patches lie as well.
        side = self.config.vit.image_size // self.config.vit.patch_size
        table = latent_position_table(side, self.config.vit.width)
        with torch.no_grad():
            self.vit.pos_embed.copy_(table.flatten(0, 1)[None])

    def gen_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the generation branch: what stages 2 and 3 train."""
        own = ("time_embedder.", "vae2llm.", "llm2vae.")
        return ((n, p) for n, p in self.named_parameters() if ".gen." in n or n.startswith(own))

    def und_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the ViT, the connector and the understanding LLM: what stage 1 trains."""
        gen = {name for name, _ in self.gen_parameters()}
        return ((n, p) for n, p in self.named_parameters() if n not in gen)

    @torch.no_grad()
    def copy_und_to_gen(self) -> None:
        """Start the generation branch from the understanding branch's layers (section 3: "inherited LLM backbone")."""
        und = dict(self.und_parameters())
        for name, parameter in self.gen_parameters():
            if ".gen." in name:
                parameter.copy_(und[name.replace(".gen.", ".und.")])

    def decode(
        self,
        und: torch.Tensor,
        gen: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        mask: torch.Tensor | None,
        caches: list[KVCache] | None = None,
        keep: bool = False,
        tap: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Run the layers over [und | gen] after what `caches` hold (one a layer).

        und: (B, U, width). gen: (B, G, width) or None. position_ids: (B or 1, U + G), or (B or 1, 1) if all are equal;
        None: all are 0. Returns the last hidden states of both, before the final norms, and gen's after layer `tap`.
        """
        config, rotary, tapped = self.config, None, None
        if position_ids is not None:
            head_dim = config.hidden_size // config.num_heads
            rotary = rotary_table(position_ids, head_dim, config.rope_theta, und.dtype)
        for i, layer in enumerate(self.layers):
            attention = {"rotary": rotary, "mask": mask, "cache": caches and caches[i], "keep": keep}
            if self.checkpoint_activations and torch.is_grad_enabled() and not keep:
                und, gen = checkpoint(layer, und, gen, use_reentrant=False, **attention)
            else:
                und, gen = layer(und, gen, **attention)
            if i + 1 == tap:
                tapped = gen
        return und, gen, tapped

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(ids).to(self.compute_dtype)

    # ---- drawing -----------------------------------------------------------------------------------------------

    def read_prompt(self, prompts: Sequence[Sequence[int] | None], multiple: int = 1) -> Prompt:
        """Token ids of each prompt, without special tokens -> its keys and values. None in the list: unconditional.

        A prompt is causal and never sees the image block, so nothing here depends on the noise. Short prompts share a
        row, one after the other, where each token sees those before it in its own prompt: hardly any padding is
        computed. Rows are padded to a multiple of `multiple` tokens (a compiled training step should meet few shapes).

        Rotary attention only knows how far apart two tokens are. A prompt of T tokens is at -T..-1, so that the image
        block after it, which has one position for all its tokens, is at 0 and needs no rotation.
        """
        config, device = self.config, self.embed_tokens.weight.device
        prompts = [[] if p is None else [config.bos, *p, config.eos] for p in prompts]
        lengths = [len(prompt) for prompt in prompts]
        T = -(-max(lengths) // multiple) * multiple
        if T == 0:
            return Prompt([KVCache(capacity=0) for _ in self.layers], None)
        rows, starts = pack(prompts, T, padding=config.eos)
        ids, positions, owners = torch.tensor(rows, device=device).unbind(-1)  # each (rows, T)
        mask = (owners[:, None, :, None] == owners[:, None, None, :]).tril()
        packed = [KVCache(capacity=T) for _ in self.layers]
        self.decode(self.embed(ids), None, positions, mask, packed, keep=True)

        row, start = torch.tensor(starts, device=device)[..., None].unbind(1)  # each (B, 1)
        column = torch.arange(T, device=device)
        where = (start + column).clamp(max=T - 1)  # (B, T); beyond its length, a prompt's row holds what nobody sees
        visible = None
        if min(lengths) < T:
            visible = (column < torch.tensor(lengths, device=device)[:, None])[:, None, None, :]
        return Prompt([cache.unpack(row, where) for cache in packed], visible)

    def velocity(
        self, x: torch.Tensor, t: torch.Tensor, prompt: Prompt, tap: int | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """v_t(x): the block [BOI latents EOI] after the cached prompt, laid out as [BOI, EOI | latents].

        x: (B, latent_channels, h, w), t: (B,) in [0, 1] -> (B, latent_channels, h, w) float32; with `tap`, also the
        latent tokens' hidden states after that layer, (B, h * w, width).
        """
        B, C, h, w = x.shape
        dtype = self.compute_dtype
        positions = self.latent_positions[:h, :w].flatten(0, 1)
        gen = self.vae2llm(x.flatten(2).transpose(1, 2).to(dtype))  # (B, h * w, width)
        gen = gen + self.time_embedder(t, dtype)[:, None] + positions.to(dtype)
        und = self.embed(torch.tensor([self.config.boi, self.config.eoi], device=x.device)).expand(B, -1, -1)
        mask = prompt.visible
        if mask is not None:
            mask = F.pad(mask, (0, 2 + h * w), value=True)
        _, gen, tapped = self.decode(und, gen, None, mask, prompt.caches, tap=tap)
        v = self.llm2vae(self.norm["gen"](gen)).float().transpose(1, 2).reshape(B, C, h, w)
        return v if tap is None else (v, tapped)

    # ---- reading -----------------------------------------------------------------------------------------------

    def embed_image(self, pixels: torch.Tensor, before: Sequence[int] = ()) -> torch.Tensor:
        """[BOI patches EOI]. pixels: (B, 3, S, S), normalised -> (B, patches + 2, width).

        Plain Janus-Pro: [before patches], where its BOI is the last id of `before` (and its EOI opens the question).
        """
        patches = self.connector(self.vit(pixels.to(self.compute_dtype)))
        left, right = (list(before), []) if self.config.causal else ([self.config.boi], [self.config.eoi])
        around = self.embed(torch.tensor([left + right], dtype=torch.long, device=pixels.device))
        left, right = around.expand(len(patches), -1, -1).split([len(left), len(right)], dim=1)
        return torch.cat([left, patches, right], dim=1)

    def prefix(self, image: torch.Tensor, text_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings, positions and mask of [image | text]: the image at position 0 and open, the text causal from 1.

        image: (B, P, width), text_ids: (B, T) -> (B, P + T, width), (1, P + T), (P + T, P + T).
        """
        P, T = image.shape[1], text_ids.shape[1]
        positions = torch.arange(P + T, device=image.device)[None]
        mask = torch.ones(P + T, P + T, dtype=torch.bool, device=image.device).tril()
        if not self.config.causal:
            positions = (positions - P + 1).clamp(min=0)
            mask[:P, :P] = True
        return torch.cat([image, self.embed(text_ids)], dim=1), positions, mask

    def report_loss(self, pixels: torch.Tensor, text_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Eq. 1, per answer token: (number of targets,) float32.

        text_ids: (B, T), [BOS question EOS BOS answer EOS] padded on the right. targets: (B, T), at each place the
        token that should come next, IGNORE outside the answer.
        """
        image = self.embed_image(pixels)
        x, positions, mask = self.prefix(image, text_ids)
        hidden, _, _ = self.decode(x, None, positions, mask)
        hidden = hidden[:, image.shape[1] :]
        wanted = targets != IGNORE  # the output layer is the widest: only tokens with a loss go through it
        logits = self.lm_head(self.norm["und"](hidden[wanted]))
        # Eq. 1: -log p(S_{i+1} | S_{<=i})
        return F.cross_entropy(logits.float(), targets[wanted], reduction="none")

    @torch.inference_mode()
    def generate(
        self,
        pixels: torch.Tensor,
        questions: Sequence[Sequence[int]],
        max_new_tokens: int = 256,
        return_logits: bool = False,
        before: Sequence[int] = (),
    ) -> list[list[int]] | tuple[list[list[int]], torch.Tensor]:
        """Greedy decoding from BOS to EOS.

        pixels: (B, 3, S, S). questions: B lists of token ids, without special tokens, of any lengths -> B lists of
        answer ids without EOS; with return_logits also (B, steps, vocab_size). Plain Janus-Pro: `before` are the ids
        before the patches, `questions` all ids after them (at least one); decoding goes on from the last.
        """
        config, device = self.config, pixels.device
        rows = questions if config.causal else [[config.bos, *q, config.eos, config.bos] for q in questions]
        B, T = len(rows), max(map(len, rows))
        padded = [[*row, *[config.eos] * (T - len(row))] for row in rows]
        text_ids = torch.tensor(padded, dtype=torch.long, device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        x, positions, mask = self.prefix(self.embed_image(pixels, before), text_ids)
        P, prompt_length = x.shape[1] - T, x.shape[1]

        caches = [KVCache(capacity=prompt_length + max_new_tokens) for _ in self.layers]
        hidden, _, _ = self.decode(x, None, positions, mask, caches, keep=True)
        hidden = hidden[torch.arange(B, device=device), P + lengths - 1]  # (B, width): the first token follows from it
        next_position = (P if config.causal else 1) + lengths[:, None]
        # Shorter questions leave padding in the cache; answers step over it.
        visible = torch.ones(B, 1, 1, caches[0].capacity, dtype=torch.bool, device=device)
        visible[:, 0, 0, P:prompt_length] = torch.arange(T, device=device) < lengths[:, None]
        ragged = not visible.all()

        answers, all_logits = [], []
        finished = torch.zeros(B, dtype=torch.bool, device=device)
        for step in range(max_new_tokens):
            if step > 0:
                mask = visible[..., : caches[0].length + 1] if ragged else None
                x, position_ids = self.embed(answers[-1]), next_position + step - 1
                hidden = self.decode(x, None, position_ids, mask, caches, keep=True)[0][:, 0]
            logits = self.lm_head(self.norm["und"](hidden)).float()
            if return_logits:
                all_logits.append(logits)
            ids = logits.argmax(dim=-1, keepdim=True)
            answers.append(ids)
            finished |= ids[:, 0] == config.eos
            if finished.all():
                break
        answers = torch.cat(answers, dim=1).tolist()
        answers = [row[: row.index(config.eos)] if config.eos in row else row for row in answers]
        return (answers, torch.stack(all_logits, dim=1)) if return_logits else answers


def count_parameters(config: UniXConfig) -> dict[str, int]:
    """Parameters per part, without allocating them (torch's meta device)."""
    with torch.device("meta"):
        model = UniX(config)
    parts = {"ViT": "vit.", "connector": "connector.", "embedding": "embed_tokens.", "output layer": "lm_head."}
    counts = {part: sum(p.numel() for n, p in model.named_parameters() if n.startswith(s)) for part, s in parts.items()}
    gen = sum(p.numel() for _, p in model.gen_parameters())
    total = sum(p.numel() for p in model.parameters())
    counts["und layers"] = total - gen - sum(counts.values())
    return counts | {"gen branch": gen, "total": total}


if __name__ == "__main__":
    columns = {name: count_parameters(preset(name)) for name in ("tiny", "unix")}
    print(f"{'parameters':14}" + "".join(f"{name:>16}" for name in columns))
    for part in columns["tiny"]:
        print(f"{part:14}" + "".join(f"{counts[part]:16,}" for counts in columns.values()))
