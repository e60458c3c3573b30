"""UniX: one decoder with two sets of weights (Zhang et al., arXiv paper sections 3.1-3.3).

The *understanding* branch ("und") is a SigLIP ViT, a connector and a Llama-style LLM, from Janus-Pro: it reads an image
or a prompt autoregressively. The *generation* branch ("gen") is a second copy of the LLM's layers that turns noisy VAE
latents into a velocity. Every layer attends over both (`attention.py`).

Sequences, with the special tokens BOS, EOS, BOI (image start), EOI (image end):
    drawing:  [BOS prompt EOS] causal, positions 0..T-1 | [BOI latents EOI] all at position T, full attention
    reading:  [BOI patches EOI] all at position 0, full attention | [BOS question EOS BOS answer EOS] causal from 1
    Janus:    [text patches text] causal, positions 0..n-1: Janus-Pro before it became a UniX (config.causal)

`UniX.forward` runs the whole drawing sequence at once. `read_prompt` and `velocity` are the same in two parts: the
prompt never sees the noise, so its keys and values are computed once and serve every step of the sampler.

`python model.py` prints the parameter counts of each preset without allocating anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention import JointAttention, KVCache, rotary_table
from layers import MLP, Linear, RMSNorm
from vit import VisionTransformer, ViTConfig

IGNORE = -100  # a target that carries no loss, as in torch's cross entropy
Choose = Callable[[torch.Tensor], torch.Tensor]  # logits of the next token (B, vocab_size) -> its ids (B,)


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
    guidance: float = 2.0  # where a command gives no other; the published default
    recipe: str = "unix"  # whose defaults train.py takes for this size
    wording: str = "published"  # of the question for a report; or "plain", the tiny model's
    bos: int = 100000
    eos: int = 100001
    boi: int = 100003
    eoi: int = 100580
    vit: ViTConfig = field(default_factory=ViTConfig)

    def to_dict(self) -> dict:
        return asdict(self)


PRESETS = ("tiny", "small", "unix")


def preset(name: str) -> UniXConfig:
    """ "unix": the paper's 1.5B model. "tiny": the same code at a size a laptop trains. "small": a size for a few
    thousand real films, which two CPU cores train in hours."""
    if name == "unix":
        return UniXConfig()
    alike = {"num_layers": 6, "context_length": 512, "repa_layer": 3, "image_size": 256}
    alike |= {"bos": 0, "eos": 1, "boi": 2, "eoi": 3, "wording": "plain"}
    if name == "small":
        return UniXConfig(
            hidden_size=320,
            intermediate_size=896,
            num_heads=5,
            vocab_size=2048,
            recipe="small",
            **alike,
            vit=ViTConfig(image_size=224, width=256, layers=6, heads=4, mlp_width=1024),
        )
    if name == "tiny":
        return UniXConfig(
            hidden_size=256,
            intermediate_size=704,
            num_heads=4,
            vocab_size=768,
            recipe="tiny",
            guidance=3.0,  # docs/results.md: it shows more of its prompts than at 2
            **alike,
            vit=ViTConfig(image_size=128, width=192, layers=4, heads=4, mlp_width=768),
        )
    raise ValueError(f"no preset {name!r}: choose {', '.join(PRESETS)}")


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
        self,
        und: torch.Tensor,
        gen: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
        update_cache: bool = False,
        maps: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """und: (B, U, width), gen: (B, G, width) or None -> the same shapes. The rest: see `JointAttention`."""
        normed_gen = None if gen is None else self.gen.attn_norm(gen)
        attended_und, attended_gen = self.attn(
            self.und.attn_norm(und), normed_gen, rotary, mask, cache, update_cache, maps
        )
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


def pad(rows: Sequence[Sequence[int]], padding: int, multiple: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids, padded on the right to one length, a multiple of `multiple` -> (B, T) ids, (B,) lengths."""
    T = -(-max(map(len, rows)) // multiple) * multiple
    ids = torch.tensor([[*row, *[padding] * (T - len(row))] for row in rows], dtype=torch.long)
    return ids.view(len(rows), T), torch.tensor([len(row) for row in rows])


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row: (B, vocab_size) -> (B,)."""
    return logits.argmax(dim=-1)


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
    def copy_und_to_gen(self, source: UniX | None = None) -> None:
        """Start the generation branch from the understanding branch's layers (section 3: "inherited LLM backbone").

        source: another model of these sizes whose understanding branch it is; default: this one.
        """
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
        maps: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Run [und | gen] through the layers, after what `caches` hold (one a layer).

        und: (B, U, width). gen: (B, G, width) or None. position_ids: (B or 1, U + G), or (B or 1, 1) if all are equal.
        maps: a list that gets the attention weights of each layer. Returns the last hidden states of both, before the
        final norms, and gen's after `return_layer` layers.
        """
        config, returned = self.config, None
        head_dim = config.hidden_size // config.num_heads
        rotary = rotary_table(position_ids, head_dim, config.rope_theta, und.dtype)
        for i, layer in enumerate(self.layers):
            arguments = (und, gen, rotary, mask, caches and caches[i], update_cache, maps)
            if self.checkpoint_activations and torch.is_grad_enabled() and not update_cache:
                und, gen = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                und, gen = layer(*arguments)
            if i + 1 == return_layer:
                returned = gen
        return und, gen, returned

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids -> embeddings in the compute dtype."""
        return self.embed_tokens(ids).to(self.compute_dtype)

    # ---- drawing -----------------------------------------------------------------------------------------------

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

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        prompts: Sequence[Sequence[int] | None],
        return_layer: int | None = None,
        attention_maps: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """v_t(x) from the whole sequence at once: [BOS prompt EOS padding BOI EOI | latents]. No cache.

        x: (B, latent_channels, h, w) noisy latents; t: (B,) in [0, 1]; prompts: B lists of token ids without special
        tokens, None for no prompt -> (B, latent_channels, h, w) float32; with `return_layer`, also the latent tokens'
        hidden states after so many layers, (B, h * w, width); with `attention_maps`, also the softmax of Eq. 5 of
        every layer, (layers, B, heads, S, S) float32, where S counts the whole sequence.
        """
        und, latents, position_ids, mask = self.drawing_sequence(x, t, prompts)
        maps = [] if attention_maps else None
        _, latents, hidden = self.run_layers(und, latents, position_ids, mask, return_layer=return_layer, maps=maps)
        v = self.to_velocity(latents, x.shape)
        extras = [*([] if return_layer is None else [hidden]), *([torch.stack(maps)] if attention_maps else [])]
        return (v, *extras) if extras else v

    def read_prompt(self, prompts: Sequence[Sequence[int] | None], multiple: int = 1) -> Prompt:
        """Token ids of each prompt, without special tokens -> its keys and values. None in the list: unconditional.

        Rows are padded to a multiple of `multiple` tokens (a compiled training step should meet few shapes).
        """
        ids, lengths = self.prompt_ids(prompts, multiple)
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
        also the latent tokens' hidden states after so many layers, (B, h * w, width).
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

    def prompt_ids(
        self, prompts: Sequence[Sequence[int] | None], multiple: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[BOS prompt EOS] of each, padded on the right -> (B, T) ids, (B,) lengths."""
        config, device = self.config, self.embed_tokens.weight.device
        rows = [[] if prompt is None else [config.bos, *prompt, config.eos] for prompt in prompts]
        ids, lengths = pad(rows, config.eos, multiple)
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
        return self.embed(ids).expand(batch, -1, -1)

    def to_velocity(self, hidden: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The latent tokens' last hidden states (B, h * w, width) -> a velocity of `shape`, (B, C, h, w) float32."""
        v = self.llm2vae(self.norm["gen"](hidden)).float()
        return v.transpose(1, 2).reshape(shape)

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
        position_ids = torch.arange(P + T, device=image.device)[None]
        mask = torch.ones(P + T, P + T, dtype=torch.bool, device=image.device).tril()
        if not self.config.causal:
            position_ids = (position_ids - P + 1).clamp(min=0)
            mask[:P, :P] = True
        return torch.cat([image, self.embed(text_ids)], dim=1), position_ids, mask

    def report_loss(self, pixels: torch.Tensor, text_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Eq. 1, per answer token: (number of targets,) float32.

        text_ids: (B, T), [BOS question EOS BOS answer EOS] padded on the right. targets: (B, T), at each place the
        token that should come next, IGNORE outside the answer.
        """
        return self.token_loss(self.text_states(pixels, text_ids), targets)

    def text_states(
        self, pixels: torch.Tensor, text_ids: torch.Tensor, maps: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """[BOI patches EOI text] through all layers at once -> the text's last hidden states, (B, T, width)."""
        image = self.embed_image(pixels)
        x, position_ids, mask = self.prefix(image, text_ids)
        hidden, _, _ = self.run_layers(x, None, position_ids, mask, maps=maps)
        return hidden[:, image.shape[1] :]

    def read_forward(
        self, pixels: torch.Tensor, text_ids: torch.Tensor, attention_maps: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The whole reading sequence at once, [BOI patches EOI | text]: what follows each token of the text? No cache.

        pixels: (B, 3, S, S), normalised; text_ids: (B, T), as in `report_loss` -> logits (B, T, vocab_size) float32;
        with `attention_maps`, also the softmax of Eq. 5 of every layer, (layers, B, heads, S, S) float32, where S
        counts the image block too.
        """
        maps = [] if attention_maps else None
        logits = self.lm_head(self.norm["und"](self.text_states(pixels, text_ids, maps))).float()
        return (logits, torch.stack(maps)) if attention_maps else logits

    def text_loss(self, text_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Eq. 1 without an image: the text stands as a prompt does, causal from position 0.

        text_ids: (B, T), [BOS text EOS] padded on the right; targets as in `report_loss` -> (number of targets,).
        """
        T = text_ids.shape[1]
        mask = torch.ones(T, T, dtype=torch.bool, device=text_ids.device).tril()
        position_ids = torch.arange(T, device=text_ids.device)[None]
        hidden, _, _ = self.run_layers(self.embed(text_ids), None, position_ids, mask)
        return self.token_loss(hidden, targets)

    def token_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Eq. 1: -log p(S_{i+1} | S_{<=i}). hidden: (B, T, width), targets: (B, T) -> (number of targets,) float32."""
        wanted = targets != IGNORE  # the output layer is the widest: only tokens with a loss go through it
        logits = self.lm_head(self.norm["und"](hidden[wanted]))
        return F.cross_entropy(logits.float(), targets[wanted], reduction="none")

    @torch.inference_mode()
    def stream(
        self,
        pixels: torch.Tensor,
        questions: Sequence[Sequence[int]],
        max_new_tokens: int = 256,
        before: Sequence[int] = (),
        answers: int = 1,
        choose: Choose = greedy,
        begin: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Decoding from BOS, token by token, until all rows have reached EOS: yields ids (B * answers,) and the logits
        they were chosen from, (B * answers, vocab_size). What a row says after its EOS means nothing.

        pixels: (B, 3, S, S). questions: B lists of token ids, without special tokens, of any lengths. answers: how many
        to each question, one row after the other; image and question are read once for all of them. Plain Janus-Pro:
        `before` are the ids before the patches, `questions` all ids after them (at least one); decoding goes on from
        the last. begin: the first ids of each question's answers, which are not yielded.
        """
        config, device = self.config, pixels.device
        rows = questions if config.causal else [[config.bos, *q, config.eos, config.bos] for q in questions]
        rows = [[*row, *first] for row, first in zip(rows, begin or [()] * len(rows), strict=True)]
        text_ids, lengths = (each.to(device) for each in pad(rows, config.eos))
        x, position_ids, mask = self.prefix(self.embed_image(pixels, before), text_ids)
        B, T = text_ids.shape
        P = x.shape[1] - T  # tokens of the image

        caches = [KVCache(capacity=P + T + max_new_tokens) for _ in self.layers]
        hidden, _, _ = self.run_layers(x, None, position_ids, mask, caches, update_cache=True)
        hidden = hidden[torch.arange(B, device=device), P + lengths - 1]  # (B, width): the first token follows from it
        if answers > 1:
            hidden, lengths = (each.repeat_interleave(answers, dim=0) for each in (hidden, lengths))
            for cache in caches:
                cache.repeat(answers)
        next_position = (P if config.causal else 1) + lengths[:, None]
        answer_mask = None
        if lengths.min() < T:  # shorter questions leave padding in the cache, which answers must not see
            answer_mask = F.pad(self.padding_mask(lengths, T), (P, max_new_tokens), value=True)

        ids, finished = None, torch.zeros(B * answers, dtype=torch.bool, device=device)
        rows = torch.arange(B * answers, device=device)  # of the answers, those that are still computed
        for step in range(max_new_tokens):
            if step > 0:
                going = ~finished[rows]
                if 2 * going.sum() <= len(rows):  # answers end at different times: each halving copies the cache once
                    rows, next_position = rows[going], next_position[going]
                    answer_mask = None if answer_mask is None else answer_mask[going]
                    for cache in caches:
                        cache.keep(going)
                mask = None if answer_mask is None else answer_mask[..., : caches[0].length + 1]
                x, position_ids = self.embed(ids[rows, None]), next_position + step - 1
                hidden = self.run_layers(x, None, position_ids, mask, caches, update_cache=True)[0][:, 0]
            logits = torch.zeros(B * answers, config.vocab_size, device=device)
            logits[rows] = self.lm_head(self.norm["und"](hidden)).float()
            ids = choose(logits)
            yield ids, logits
            finished |= ids == config.eos
            if finished.all():
                return

    def generate(
        self,
        pixels: torch.Tensor,
        questions: Sequence[Sequence[int]],
        max_new_tokens: int = 256,
        return_logits: bool = False,
        before: Sequence[int] = (),
        answers: int = 1,
        choose: Choose = greedy,
        begin: Sequence[Sequence[int]] | None = None,
    ) -> list[list[int]] | tuple[list[list[int]], torch.Tensor]:
        """The whole answers of `stream`, whose arguments these are: B * answers lists of ids without EOS; with
        return_logits also (B * answers, steps, vocab_size)."""
        steps = list(self.stream(pixels, questions, max_new_tokens, before, answers, choose, begin))
        rows = torch.stack([ids for ids, _ in steps], dim=1).tolist()
        rows = [row[: row.index(self.config.eos)] if self.config.eos in row else row for row in rows]
        return (rows, torch.stack([logits for _, logits in steps], dim=1)) if return_logits else rows


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
    columns = {name: count_parameters(preset(name)) for name in PRESETS}
    print(f"{'parameters':14}" + "".join(f"{name:>16}" for name in columns))
    for part in columns["tiny"]:
        print(f"{part:14}" + "".join(f"{counts[part]:16,}" for counts in columns.values()))
