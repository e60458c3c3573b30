"""UniX: one decoder with two sets of weights (Zhang et al., arXiv paper sections 3.1-3.3).

The *understanding* branch ("und") is a SigLIP ViT, a connector and a Llama-style LLM, from Janus-Pro: it reads an image
or a prompt autoregressively. The *generation* branch ("gen") is a second copy of the LLM's layers that turns noisy VAE
latents into a velocity. In every layer all tokens attend together (`attention.py`).

Sequences, with the special tokens BOS, EOS, BOI (image start), EOI (image end):
    drawing:  [BOS prompt EOS] causal, positions 0..T-1, then [BOI latents EOI] all at position T, full attention
    reading:  [BOI patches EOI] all at position 0, full attention, then [BOS question EOS BOS answer EOS] causal from 1

Only latents use gen weights. BOI and EOI are und tokens that see the noise: in the published model they alone let gen
"feed back" to und (section 3.3), for the prompt never sees the block. All patches share one rotary position, and so do
all latents: where each lies is said by a table that is added to it, the ViT's or `latent_position_table`.

`UniX.forward` runs the whole drawing sequence at once, without a cache: it is the specification. Training and sampling
call `read_prompt` and `velocity`, the same in two parts: the prompt's keys and values are computed once and serve every
step. `test_velocity_with_a_cached_prompt_is_one_forward_over_the_whole_sequence` holds them to it. `generate.py`
decodes a report; `checkpoints/presets.py` has the sizes of a fresh model and its first weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention import JointAttention, KVCache, rotary_table
from layers import MLP, Linear, RMSNorm
from vit import VisionTransformer, ViTConfig


@dataclass
class UniXConfig:
    """Sizes and token ids. Defaults: the published model (1.5 billion parameters in the paper's count, 3.2 with both
    branches). Travels with the weights as config.json."""

    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_layers: int = 24
    num_heads: int = 16
    vocab_size: int = 102400
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    qk_norm: bool = True
    qkv_bias: bool = True
    connector_act: str = "gelu_tanh"  # "gelu" (exact) in Janus-Pro
    latent_channels: int = 16
    max_latent_size: int = 32  # side of the table of latent positions
    repa_layer: int = 8  # REPA (losses.py) aligns the latents' hidden states after this layer with RadDino's features
    bos: int = 100000
    eos: int = 100001
    boi: int = 100003
    eoi: int = 100580
    vit: ViTConfig = field(default_factory=ViTConfig)
    # What the commands take where nothing else is asked for; the model does not use it.
    context_length: int = 16384  # tokens of text the rotary positions were trained for
    image_size: int = 512  # px; what the generation branch was last trained to draw
    guidance: float = 2.0
    recipe: str = "unix"  # whose defaults train.py takes for this size
    wording: str = "published"  # of the question for a report; or "plain", the tiny model's


class NormsAndMLP(nn.Module):
    """What a decoder layer has for each branch besides the projections of its attention."""

    def __init__(self, config: UniXConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)


class DecoderLayer(nn.Module):
    """A Llama layer with two sets of weights that meet in the attention: `und` and `attn.und`, `gen` and `attn.gen`."""

    def __init__(self, config: UniXConfig) -> None:
        super().__init__()
        self.und, self.gen = NormsAndMLP(config), NormsAndMLP(config)
        self.attn = JointAttention(
            config.hidden_size, config.num_heads, config.qk_norm, config.qkv_bias, config.rms_norm_eps
        )

    def forward(
        self,
        und: torch.Tensor,
        gen: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
        update_cache: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """und: (B, U, width), gen: (B, G, width) or None -> the same shapes. The rest: see `JointAttention`."""
        normed_gen = None if gen is None else self.gen.attn_norm(gen)
        attended_und, attended_gen = self.attn(self.und.attn_norm(und), normed_gen, rotary, mask, cache, update_cache)
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
    """256 sinusoids of t (cosines, then sines; angular frequencies from 1 down to about 1/10000), then Linear, SiLU,
    Linear. Like the published model it takes t in [0, 1] as it is, not times 1000: only the fast sinusoids move."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(256, width), nn.SiLU(), Linear(width, width))

    def forward(self, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """t: (B,) float32 -> (B, width) of `dtype`."""
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=t.device) / 128)
        angles = t.float()[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype))


def latent_position_table(side: int, width: int) -> torch.Tensor:
    """2-D sine-cosine positions, (side, side, width) by row and column; the first half of the width encodes the column.

    Fixed, not trained. A picture of h x w latents uses the table's upper left corner, so that stage 3's larger grid
    only uses more of it: this is "extending the positional encoding" (section 3.4). On the CPU in any context, as a
    model is built on the meta device before a file fills it.
    """
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width / 4))
    angles = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * omega
    encoded = torch.cat([angles.sin(), angles.cos()], dim=1).float()  # (side, width / 2)
    columns = encoded[None, :].expand(side, -1, -1)  # [row, column] -> of the column
    rows = encoded[:, None].expand(-1, side, -1)  # [row, column] -> of the row
    return torch.cat([columns, rows], dim=2)


def pad(rows: Sequence[Sequence[int]], padding: int, multiple: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids, padded on the right -> (B, T) ids, (B,) lengths. T is the longest length, rounded up to a
    multiple of `multiple`."""
    T = -(-max(map(len, rows)) // multiple) * multiple
    ids = torch.tensor([[*row, *[padding] * (T - len(row))] for row in rows], dtype=torch.long)
    return ids.view(len(rows), T), torch.tensor([len(row) for row in rows])


@dataclass
class Prompt:
    """A batch of prompts as the image block sees them: their keys and values, computed once for all noise levels."""

    caches: list[KVCache]  # one a layer, (B, heads, T, head_dim)
    lengths: torch.Tensor  # (B,) tokens of each prompt, BOS and EOS counted; 0: no prompt
    mask: torch.Tensor | None  # (B, 1, 1, T) bool, False at padding; None where there is none


class UniX(nn.Module):
    """The whole model but for the VAE. `compute_dtype` is what activations have, whatever the weights are kept in."""

    def __init__(self, config: UniXConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.checkpoint_activations = False  # training: keep only each layer's input and compute the rest again
        self.adapter: dict[str, object] = {}  # what lora.py put on: its branch, rank, scale and weights
        self.pad_to = 1  # prompts are as long as a multiple of this: a compiled step should meet few shapes
        width = config.hidden_size
        # Zeros until weights fill it: torch's own normal draw is slow on the meta device.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.zeros(config.vocab_size, width), freeze=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.ModuleDict({branch: RMSNorm(width, config.rms_norm_eps) for branch in ("und", "gen")})
        self.lm_head = Linear(width, config.vocab_size, bias=False)
        self.vit, self.connector = VisionTransformer(config.vit), Connector(config)
        self.time_embedder = TimeEmbedder(width)
        self.vae2llm = Linear(config.latent_channels, width)
        self.llm2vae = Linear(width, config.latent_channels)
        table = latent_position_table(config.max_latent_size, width)
        self.register_buffer("latent_positions", table, persistent=False)

    def gen_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the generation branch, which stages 2 and 3 train: `gen` and `attn.gen` of each
        layer, the norm `gen`, and what latents and time go through."""
        own = ("time_embedder.", "vae2llm.", "llm2vae.")
        return ((n, p) for n, p in self.named_parameters() if ".gen." in n or n.startswith(own))

    def und_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the ViT, the connector and the understanding LLM: what stage 1 trains."""
        gen = {name for name, _ in self.gen_parameters()}
        return ((n, p) for n, p in self.named_parameters() if n not in gen)

    @torch.no_grad()
    def copy_und_to_gen(self, source: UniX | None = None) -> None:
        """Start the generation branch from an understanding branch's layers (section 3: "inherited LLM backbone"): that
        of `source`, a model of the same sizes, or of this one."""
        und = dict((source or self).und_parameters())
        for name, parameter in self.gen_parameters():
            if ".gen." in name:
                parameter.copy_(und[name.replace(".gen.", ".und.")])

    def run_layers(
        self,
        und: torch.Tensor,
        gen: torch.Tensor | None,
        position_ids: torch.Tensor,
        mask: torch.Tensor | None = None,
        caches: list[KVCache] | None = None,
        update_cache: bool = False,
        return_layer: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Run [und | gen] through the layers, after what `caches` hold (one a layer).

        und: (B, U, width). gen: (B, G, width) or None. position_ids: broadcastable to (B, U + G). Returns the last
        hidden states of both, before the final norms, and gen's after `return_layer` layers.
        """
        config, returned = self.config, None
        head_dim = config.hidden_size // config.num_heads
        rotary = rotary_table(position_ids, head_dim, config.rope_theta, und.dtype)
        # Not with `update_cache`: a layer that runs a second time would append its keys a second time.
        recompute = self.checkpoint_activations and torch.is_grad_enabled() and not update_cache
        for i, layer in enumerate(self.layers):
            cache = caches[i] if caches else None
            if recompute:
                und, gen = checkpoint(layer, und, gen, rotary, mask, cache, use_reentrant=False)
            else:
                und, gen = layer(und, gen, rotary, mask, cache, update_cache)
            if i + 1 == return_layer:
                returned = gen
        return und, gen, returned

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids -> embeddings in the compute dtype."""
        return self.embed_tokens(ids).to(self.compute_dtype)

    # ---- drawing -----------------------------------------------------------------------------------------------

    def prompt_ids(self, prompts: Sequence[Sequence[int] | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """[BOS prompt EOS] of each, padded on the right -> (B, T) ids, (B,) lengths."""
        config, device = self.config, self.embed_tokens.weight.device
        rows = [[] if prompt is None else [config.bos, *prompt, config.eos] for prompt in prompts]
        ids, lengths = pad(rows, config.eos, self.pad_to)
        return ids.to(device), lengths.to(device)

    def padding_mask(self, lengths: torch.Tensor, length: int) -> torch.Tensor:
        """(B,) lengths -> (B, 1, 1, length) bool, True at the tokens of each row, False at its padding."""
        return (torch.arange(length, device=lengths.device) < lengths[:, None])[:, None, None, :]

    def embed_latents(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Noisy latents (B, latent_channels, h, w) and times (B,) -> gen tokens (B, h * w, width)."""
        h, w = x.shape[2:]
        tokens = self.vae2llm(x.flatten(2).transpose(1, 2).to(self.compute_dtype))
        times = self.time_embedder(t, self.compute_dtype)[:, None]
        return tokens + times + self.latent_positions[:h, :w].flatten(0, 1).to(self.compute_dtype)

    def embed_block_ends(self, batch: int) -> torch.Tensor:
        """[BOI, EOI], the und tokens of the image block: (batch, 2, width)."""
        ids = torch.tensor([self.config.boi, self.config.eoi], device=self.embed_tokens.weight.device)
        return self.embed(ids).repeat(batch, 1, 1)  # copied: torch.compile would take a view for another shape

    def to_velocity(self, hidden: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The latent tokens' last hidden states (B, h * w, width) -> a velocity of `shape`, (B, C, h, w) float32."""
        v = self.llm2vae(self.norm["gen"](hidden)).float()
        return v.transpose(1, 2).reshape(shape)

    def drawing_sequence(
        self, x: torch.Tensor, t: torch.Tensor, prompts: Sequence[Sequence[int] | None]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings, positions and mask of [BOS prompt EOS padding BOI EOI | latents], as `forward` runs it.

        With U = T + 2 und tokens, T those of the longest prompt, and G = h * w latents: (B, U, width), (B, G, width),
        (B, U + G), (B, 1, U + G, U + G).
        """
        ids, lengths = self.prompt_ids(prompts)
        B, T = ids.shape
        latents, block = self.embed_latents(x, t), self.embed_block_ends(B)
        und = torch.cat([self.embed(ids), block], dim=1)
        U, G = und.shape[1], latents.shape[1]

        position_ids = torch.arange(T, device=x.device).repeat(B, 1)
        position_ids = torch.cat([position_ids, lengths[:, None].expand(B, 2 + G)], dim=1)
        mask = torch.zeros(B, 1, U + G, U + G, dtype=torch.bool, device=x.device)
        mask[:, :, :T, :T] = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()  # the prompt is causal
        mask[:, :, T:, :T] = self.padding_mask(lengths, T)  # the block sees the whole prompt, but no padding
        mask[:, :, T:, T:] = True  # and all of itself; the prompt never sees the block
        return und, latents, position_ids, mask

    def forward(self, x: torch.Tensor, t: torch.Tensor, prompts: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """v_t(x) from the whole sequence at once: [BOS prompt EOS padding BOI EOI | latents]. No cache.

        x: (B, latent_channels, h, w) noisy latents; t: (B,) in [0, 1]; prompts: B lists of token ids without special
        tokens, None for no prompt -> (B, latent_channels, h, w) float32.
        """
        und, latents, position_ids, mask = self.drawing_sequence(x, t, prompts)
        _, latents, _ = self.run_layers(und, latents, position_ids, mask)
        return self.to_velocity(latents, x.shape)

    def read_prompt(self, prompts: Sequence[Sequence[int] | None]) -> Prompt:
        """Token ids of each prompt, without special tokens -> its keys and values. None in the list: unconditional."""
        ids, lengths = self.prompt_ids(prompts)
        T = ids.shape[1]
        caches = [KVCache(capacity=T) for _ in self.layers]
        if T > 0:
            # Causal alone: padding stands behind the prompt, where none of its tokens looks.
            mask = torch.ones(T, T, dtype=torch.bool, device=ids.device).tril()
            position_ids = torch.arange(T, device=ids.device)[None]
            self.run_layers(self.embed(ids), None, position_ids, mask, caches, update_cache=True)
        return Prompt(caches, lengths, self.padding_mask(lengths, T) if lengths.min() < T else None)

    def velocity(
        self, x: torch.Tensor, t: torch.Tensor, prompt: Prompt, return_layer: int | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """v_t(x) from the block [BOI EOI | latents] alone, after the cached prompt.

        x: (B, latent_channels, h, w), t: (B,) in [0, 1] -> (B, latent_channels, h, w) float32; with `return_layer`,
        also the latent tokens' hidden states after so many layers, (B, h * w, width), which REPA looks at.
        """
        latents, block = self.embed_latents(x, t), self.embed_block_ends(len(x))
        mask = prompt.mask
        if mask is not None:  # (B, 1, 1, T + 2 + h * w): the block sees all of itself
            mask = F.pad(mask, (0, 2 + latents.shape[1]), value=True)
        position_ids = prompt.lengths[:, None]  # one for the whole block
        _, latents, hidden = self.run_layers(
            block, latents, position_ids, mask, prompt.caches, return_layer=return_layer
        )
        v = self.to_velocity(latents, x.shape)
        return v if return_layer is None else (v, hidden)

    # ---- reading -----------------------------------------------------------------------------------------------

    def read_forward(self, pixels: torch.Tensor, text_ids: torch.Tensor) -> torch.Tensor:
        """The whole sequence at once, [BOI patches EOI | text]: what follows each token of the text? No cache.

        pixels: (B, 3, S, S), normalised; text_ids: (B, T), [BOS question EOS BOS answer EOS] padded on the right, two
        texts as published -> logits (B, T, vocab_size) float32. `generate.py` decodes with it, then with a cache.
        """
        return self.to_logits(self.text_states(pixels, text_ids))

    def text_states(self, pixels: torch.Tensor, text_ids: torch.Tensor) -> torch.Tensor:
        """The text's last hidden states, (B, T, width), before the final norm. Arguments as in `read_forward`."""
        x, position_ids, mask = self.reading_sequence(self.embed_image(pixels), text_ids)
        hidden, _, _ = self.run_layers(x, None, position_ids, mask)
        return hidden[:, -text_ids.shape[1] :]

    def embed_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """[BOI patches EOI]. pixels: (B, 3, S, S), normalised -> (B, P, width), where P = patches + 2."""
        patches = self.connector(self.vit(pixels.to(self.compute_dtype)))
        boi, eoi = self.embed_block_ends(len(patches)).split(1, dim=1)
        return torch.cat([boi, patches, eoi], dim=1)

    def reading_sequence(
        self, image: torch.Tensor, text_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings, positions and mask of [image | text]: the image at position 0 and open, the text causal from 1.

        image: (B, P, width), text_ids: (B, T) -> (B, P + T, width), (1, P + T), (P + T, P + T).
        """
        x = torch.cat([image, self.embed(text_ids)], dim=1)
        P, S = image.shape[1], x.shape[1]
        position_ids = (torch.arange(S, device=x.device)[None] - P + 1).clamp(min=0)
        mask = torch.ones(S, S, dtype=torch.bool, device=x.device).tril()
        mask[:P, :P] = True
        return x, position_ids, mask

    def asked(self, question: Sequence[int]) -> list[int]:
        """The text of a question, up to where its answer begins: [BOS question EOS BOS]. Question and answer are texts
        of their own, as published."""
        config = self.config
        return [config.bos, *question, config.eos, config.bos]

    def to_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Last hidden states of und tokens (..., width) -> logits of the next token (..., vocab_size) float32."""
        return self.lm_head(self.norm["und"](hidden)).float()
