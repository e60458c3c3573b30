"""How fast: ours beside the plain way of the paper's files. For a GPU: speed/gpu.py.

    python -m speed.bench                      every row
    python -m speed.bench training             some
    python -m speed.bench --quick              tiny models, two rounds: does it run? its numbers mean nothing

The ways of a row run in one process, on the same weights, inputs and threads. Their outputs are compared first; then
they take turns for `--repeat` rounds and medians are printed, so that a machine that slows down slows both alike.
Columns: ours and the alternative in the row's unit; how many times better ours is.
"""

import argparse
import copy
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

import data
import flow
from attention import rotary_table, rotate
from checkpoints.presets import init_weights, preset
from common import arguments
from common.devices import dtype_name
from common.errors import UserError, run
from common.files import SHIPPED
from generate import generate, naive_generate
from losses import IGNORE, Batch, RepaProjector, StageLoss, repa_loss
from model import DecoderLayer, UniX
from phantoms.dataset import Phantoms
from sample import question_of
from speed import cpu
from vae import sample_posterior
from weights import load_checkpoint

Row = tuple[str, str, float, float, float]  # name, unit, ours and the alternative in it, ratio (> 1: ours is better)


def compare(
    name: str, unit: str, amount: float, ours: Callable[[], object], instead: Callable[[], object], repeat: int
) -> Row:
    """Two ways that take turns for `repeat` rounds, after a round that does not count. amount: units of one call."""
    rounds = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        instead()
        middle = time.perf_counter()
        ours()
        rounds.append((time.perf_counter() - middle, middle - began))
    medians = map(statistics.median, zip(*rounds[1:], strict=True))
    mine, other = (amount / seconds for seconds in medians)
    # Each round is compared with its own neighbour.
    return name, unit, mine, other, statistics.median(other / mine for mine, other in rounds[1:])


def agree(ours: torch.Tensor, instead: torch.Tensor) -> None:
    """Raises AssertionError unless both say the same, up to rounding, relative to their own scale."""
    scale = instead.square().mean().sqrt().clamp_min(1e-9)
    torch.testing.assert_close(ours / scale, instead / scale, atol=1e-3, rtol=0)


def wide_unix() -> UniX:
    """12 layers of width 768, between the tiny model and the published one, with random weights."""
    config = preset("tiny")
    config.hidden_size, config.intermediate_size, config.num_layers, config.num_heads = 768, 2048, 12, 12
    generator, model = torch.Generator().manual_seed(0), UniX(config)
    init_weights(model, generator)
    nn.init.normal_(model.llm2vae.weight, std=0.02, generator=generator)  # at zero, nothing before it has a gradient
    return model


# ---- reading -----------------------------------------------------------------------------------------------------


def reading(args: argparse.Namespace) -> Iterator[Row]:
    """the tokens a second of a report, beside the whole sequence again for each token"""
    shipped = load_checkpoint(SHIPPED)
    question = question_of(shipped, None)
    yield reading_row(shipped.model, question, 1, "tiny", args)
    if not args.quick:
        yield reading_row(shipped.model, question, 8, "tiny", args)
        yield reading_row(wide_unix().eval(), question, 1, "12 x 768", args)


def reading_row(model: UniX, question: list[int], batch: int, name: str, args: argparse.Namespace) -> Row:
    fast, tokens = copy.deepcopy(model), 9 if args.quick else 33
    cpu.speed_up(fast)
    image = model.vit.preprocess(torch.tensor(Phantoms(1, model.config.vit.image_size).image(0))[None])
    images = image.repeat(batch, 1, 1, 1)

    def ours() -> list[list[int]]:
        return generate(fast, images, [question] * batch, tokens)

    def instead() -> list[list[int]]:
        return [naive_generate(model, each[None], question, tokens) for each in images]

    if ours() != instead() or len(ours()[0]) != tokens:
        raise AssertionError(f"reading, {name}: not the same tokens, or too few")
    return compare(f"reading, {name}, batch {batch}", "tokens/s", batch * tokens, ours, instead, args.repeat)


# ---- training ----------------------------------------------------------------------------------------------------


def training(args: argparse.Namespace) -> Iterator[Row]:
    """samples/s of forward and backward: drawing beside the authors' way, reading beside one padded sequence"""
    for stage, dtype in itertools.product(("2", "1"), (torch.float32, torch.bfloat16)):
        tiny = load_checkpoint(SHIPPED).model
        yield training_row(tiny, stage, dtype, 4 if args.quick else 16, "tiny", args.repeat)
        if not args.quick:
            yield training_row(wide_unix(), stage, dtype, 8, "12 x 768", args.repeat)


def training_row(model: UniX, stage: str, dtype: torch.dtype, count: int, name: str, repeat: int) -> Row:
    """`count` phantoms of 128 px. Rendering them, and encoding them for stage 2, is not timed."""
    model.compute_dtype = dtype
    config, shipped, heads = model.config, load_checkpoint(SHIPPED), nn.ModuleDict()
    if stage == "2":
        heads["repa"] = RepaProjector(config.hidden_size, config.vit.width, 512)
    for _, parameter in model.und_parameters() if stage == "2" else model.gen_parameters():
        parameter.requires_grad_(False)
    examples = data.Examples(Phantoms(count, 128), stage, 128, 0, shipped.encode, config, count)
    batches = data.collate(config, [examples[i] for i in range(count)])
    ((kind, batch),) = batches.items()
    with torch.no_grad():  # once, as a run does
        vae, images = shipped.vae, batch.image
        frozen = *vae.posterior(vae.preprocess(images)), model.vit(model.vit.preprocess(images))

    plain = copy.deepcopy(model, memo={id(p): p for p in model.parameters()})  # other layers, the same parameters
    cpu.speed_up(model)
    losses, plain_losses = (StageLoss(each, vae, heads, lambda index, image: frozen, 0.5) for each in (model, plain))
    totals, obvious = {kind: float(batch.terms())}, packed_draw if stage == "2" else obvious_read
    trained = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]

    def step(loss: torch.Tensor) -> list[torch.Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)]

    def ours() -> list[torch.Tensor]:
        return step(losses(batches, totals)[0])

    def instead() -> list[torch.Tensor]:
        return step(obvious(plain_losses, batch))

    if dtype == torch.float32:  # in bfloat16 each way rounds as it goes
        for value, expected in zip(ours(), instead(), strict=True):
            agree(value, expected)
    return compare(f"stage {stage}, {name}, {dtype_name(dtype)}", "samples/s", count, ours, instead, repeat)


# The authors' way to draw: the tokens of all examples in one row, each layer's weights chosen by an index; and
# attention example by example. The obvious way to read: logits of one padded sequence. Both with plain layers.


def packed_draw(losses: StageLoss, batch: Batch) -> torch.Tensor:
    """The loss of stage 2 over [BOS prompt EOS BOI latents EOI] of each example, one behind the other."""
    model = losses.model
    mean, log_variance, target = losses.frozen_features(batch.index, batch.image)
    latents = losses.vae.normalise(sample_posterior(mean, log_variance, batch.posterior_noise))
    t = flow.training_time(batch.t_normal)
    x_t = flow.interpolate(latents, batch.noise, t)
    v, hidden = packed_velocity(model, x_t, t, batch.prompts)
    repa = repa_loss(losses.heads["repa"](hidden), target)
    return flow.velocity_error(v, latents, batch.noise).mean() + losses.repa_weight * repa


def packed_velocity(
    model: UniX, x: torch.Tensor, t: torch.Tensor, prompts: list[list[int] | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """v_t(x), and gen's hidden states after the layer of REPA."""
    config, latents = model.config, model.embed_latents(x, t)
    boi, eoi = model.embed_block_ends(1)[0].split(1)
    rows, positions, is_gen, lengths, masks = [], [], [], [], []
    for prompt, tokens in zip(prompts, latents, strict=True):
        ids = [] if prompt is None else [config.bos, *prompt, config.eos]
        rows += [model.embed(torch.tensor(ids, dtype=torch.long)), boi, tokens, eoi]
        block = len(tokens) + 2
        positions += [*range(len(ids)), *[len(ids)] * block]
        is_gen += [*[False] * (len(ids) + 1), *[True] * len(tokens), False]
        lengths.append(len(ids) + block)
        mask = torch.ones(lengths[-1], lengths[-1], dtype=torch.bool).tril()
        mask[len(ids) :] = True
        masks.append(mask)
    hidden, kind = torch.cat(rows), torch.tensor(is_gen)
    index = {"und": (~kind).nonzero()[:, 0], "gen": kind.nonzero()[:, 0]}
    head_dim = config.hidden_size // config.num_heads
    rotary = rotary_table(torch.tensor([positions]), head_dim, config.rope_theta, hidden.dtype)

    for i, layer in enumerate(model.layers):
        hidden = packed_layer(layer, hidden, index, rotary, lengths, masks)
        if i + 1 == config.repa_layer:
            returned = hidden[index["gen"]].view_as(latents)
    return model.to_velocity(hidden[index["gen"]].view_as(latents), x.shape), returned


def packed_layer(
    layer: DecoderLayer,
    hidden: torch.Tensor,
    index: dict[str, torch.Tensor],
    rotary: tuple[torch.Tensor, torch.Tensor],
    lengths: list[int],
    masks: list[torch.Tensor],
) -> torch.Tensor:
    """hidden: (tokens of all examples, width) -> the same. index: where und tokens and gen tokens stand."""

    def each(of: Callable[[str, torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """A function of each branch at its own tokens, put back where they stand."""
        parts = {branch: of(branch, x[index[branch]]) for branch in index}
        whole = x.new_zeros(len(x), *parts["und"].shape[1:])
        return whole.index_put((index["und"],), parts["und"]).index_put((index["gen"],), parts["gen"])

    blocks, attention = ({branch: getattr(of, branch) for branch in index} for of in (layer, layer.attn))
    normed = each(lambda branch, x: blocks[branch].attn_norm(x), hidden)
    qkv = each(
        lambda branch, x: torch.stack([part[0] for part in attention[branch](x[None])]).permute(2, 0, 1, 3), normed
    )
    q, k, v = qkv.permute(1, 2, 0, 3)[:, None]
    q, k = rotate(q, rotary), rotate(k, rotary)
    parts = zip(q.split(lengths, 2), k.split(lengths, 2), v.split(lengths, 2), masks, strict=True)
    mixed = torch.cat([F.scaled_dot_product_attention(*qkv, attn_mask=mask) for *qkv, mask in parts], dim=2)
    hidden = hidden + each(lambda branch, x: attention[branch].out(x), mixed[0].transpose(0, 1).flatten(1))
    return hidden + each(lambda branch, x: blocks[branch].mlp(blocks[branch].mlp_norm(x)), hidden)


def obvious_read(losses: StageLoss, batch: Batch) -> torch.Tensor:
    """The loss of stage 1, with logits of every token as transformers computes them."""
    logits = losses.model.read_forward(losses.model.vit.preprocess(batch.image), batch.text_ids)
    targets = F.pad(batch.targets, (logits.shape[1] - batch.targets.shape[1], 0), value=IGNORE)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# ---- the command -------------------------------------------------------------------------------------------------

ROWS = {"reading": reading, "training": training}


def main() -> None:
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="reading or training; default: both")
    parser.add_argument("--repeat", type=arguments.whole(1, 10_000), default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny models and two rounds, to see it run")
    args = parser.parse_args()
    if unknown := set(args.names) - set(ROWS):
        raise UserError(f"{' '.join(unknown)}: choose from {', '.join(ROWS)}")
    args.repeat = min(args.repeat, 2) if args.quick else args.repeat
    cpu.keep_freed_memory()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32 unless said")
    print(f"{'ours':>57}{'instead':>12}{'ratio':>10}")
    for name in args.names or ROWS:
        for title, unit, ours, instead, ratio in ROWS[name](args):
            print(f"{title:36}{unit:12}{ours:>9.4g}{instead:>12.4g}{ratio:>8.2f} x", flush=True)


if __name__ == "__main__":
    run(main)
