# %% [markdown]
# # Lesson 7: real weights
#
# The authors publish UniX as files full of named tensors, with other names than ours. In this short lesson you look
# into such a file, translate its names, start a UniX from a Janus-Pro, and see a broken file refused.
#
# The published files are gigabytes. Here a small program writes the same names with small shapes and random numbers
# (`workshop/random_weights.py`). What you see of names and rules holds for the real ones.
#
# *A research and teaching tool, not a medical device. Random weights say nothing about any X-ray.*

# %% setup
import classroom
from pathlib import Path

import torch

import random_weights
import weights
from checkpoints import layouts
from checks import lesson_7 as check
from common.errors import UserError
from sample import draw

folder = Path("../out/workshop/weights")

# %% [markdown]
# ## What is in such a folder?
#
# `weights.inspect` is what `python weights.py inspect FOLDER` runs. It reads the head of each file alone, so it is as
# quick for ten gigabytes. **Question:** which two tensors would be skipped, and why may they be?

# %%
unix_folder = random_weights.write(folder / "unix", "unix")
weights.inspect(unix_folder)

# %%
names = sorted(random_weights.shapes("unix"))
print(f"{len(names)} names, for example:")
for name in (n for n in names if ".layers.1.self_attn." in n):
    print(" ", name)

# %% [markdown]
# `_moe_gen` marks the gen branch: every part of a layer is there twice. Ours are called `und` and `gen`, and we keep in
# one matrix what is multiplied together: Q, K and V are the parts 0, 1, 2 of 3 of `qkv`.
#
# ### Exercise 1
#
# Translate the names of Q, K and V. `language_model.model.layers.1.self_attn.k_proj_moe_gen.bias` goes to
# `("layers.1.attn.gen.qkv.bias", 1, 3)`. For any other name return None.


# %% exercise: translate
def translate(name):
    """A published name -> (our name, part, parts) for Q, K and V; None for other names."""
    ...


# %%
print(check.translate(translate))

# %% [markdown]
# `translate_unix` in `checkpoints/layouts.py` does this for all of them. It answers None for a name that is known and
# not needed, and KeyError for a name that it does not know. **Question:** why not ignore a name that nobody knows?

# %%
for name in (
    "language_model.model.layers.0.mlp_moe_gen.up_proj.weight",
    "language_model.model.norm_moe_gen.weight",
    "vit_model.vision_tower.blocks.0.attn.qkv.bias",
    "latent_pos_embed.pos_embed",
    "language_model.model.layers.0.self_attn.rotary.weight",
):
    try:
        print(name, "->", layouts.translate_unix(name))
    except KeyError as error:
        print("KeyError:", error)

# %% [markdown]
# ## Load it and draw
#
# All 101 tensors find their place, so the model draws. It has learnt nothing: random weights make a pattern.

# %%
unix = weights.load_checkpoint(unix_folder)
picture = draw(unix, ["Small left pleural effusion."], seeds=[0], size=128, steps=6)[0]
classroom.show([picture], ["drawn by random weights"], inches=2.4)

# %% [markdown]
# ## A UniX that starts from Janus-Pro
#
# The authors did not start from nothing: the und branch is a Janus-Pro, which read and talked before. Its file has no
# gen branch, no norms of queries and keys, no biases of Q, K and V, and nothing for latents and time. `load_checkpoint`
# makes a UniX of it and says how.
#
# ### Exercise 2
#
# Where does each tensor of the new UniX come from? Return "read" (Janus-Pro has it), "copied" (from the und branch, or
# a neutral value: norms at 1, biases at 0) or "new" (random or zero). The names are ours, for example
# `layers.0.attn.und.qkv.weight`, `layers.0.gen.mlp.down.weight`, `vit.norm.weight`, `vae2llm.bias`.


# %% exercise: origin
def origin(name):
    """One of our names -> "read", "copied" or "new"."""
    ...


# %%
print(check.origin(origin))

# %%
janus_folder = random_weights.write(folder / "janus", "janus")
started = weights.load_checkpoint(janus_folder)
state = started.model.state_dict()
und, gen = state["layers.1.und.mlp.gate_up.weight"], state["layers.1.gen.mlp.gate_up.weight"]
print("gen's MLP is und's:", torch.equal(und, gen))
print("norm of the queries:", state["layers.0.attn.und.q_norm.weight"][:4].tolist())
print("llm2vae, the last step to a velocity:", state["llm2vae.weight"].abs().max().item())

# %% [markdown]
# The first velocity is 0 everywhere. **Question:** what would the sampler make of that? And why is it a better start
# than a random one?
#
# ## A broken file
#
# A file that is cut short, renamed or of another size should not load by halves. Each function below damages the
# tensors before they are written.

# %%
query = "language_model.model.layers.0.self_attn.q_proj.weight"


def renamed(tensors):
    tensors[query.replace("q_proj", "query")] = tensors.pop(query)


def missing(tensors):
    del tensors["vae2llm.bias"]


def narrow(tensors):
    tensors["llm2vae.weight"] = tensors["llm2vae.weight"][:8].clone()


def not_a_number(tensors):
    tensors["llm2vae.weight"][0, 0] = float("nan")


for damage in (renamed, missing, narrow, not_a_number):
    broken = random_weights.write(folder / "broken", "unix", change=damage)
    try:
        weights.load_checkpoint(broken)
    except UserError as error:
        print(f"{damage.__name__}: {error}\n")

# %% [markdown]
# ## What strictness cannot see
#
# ### Exercise 3
#
# Damage the file so that it still loads, but draws something else: no name, no shape and no finite number may give it
# away. Think of two tensors of one shape.


# %% exercise: damage
def damage(tensors):
    """Change the dictionary of tensors in place."""
    ...


# %%
print(check.damage(damage))

# %%
broken = random_weights.write(folder / "broken", "unix", change=damage)
other = draw(weights.load_checkpoint(broken), ["Small left pleural effusion."], seeds=[0], size=128, steps=6)[0]
classroom.show([picture, other], ["before", "after your damage"], inches=2.4)

# %% [markdown]
# Only numbers that were computed elsewhere find such a mistake. `tests/golden/` holds what a reference implementation
# computes with small weights, and a manifest with checksums finds a file that has changed since it was written. A
# translation that exchanges Q and K passes every check of names. **Question:** Q and K exchanged in *every* layer: what
# changes in `softmax(Q K^T)`?
#
# ## Experiment: how much damage does a picture survive?
#
# Nobody wrote down the answer. The shipped model draws well. Add noise of a growing share to the weights of one part,
# and look when the picture breaks: is the gen branch more fragile than the und branch, the MLP more than the attention,
# the first layer more than the last?

# %%
PART = ".gen.mlp."  # a piece of a name: ".attn.gen.", ".und.", "layers.0.", "llm2vae", ...
SHARES = (0, 0.1, 0.3, 0.6, 1.0)  # of the weights' own spread

pictures = []
for share in SHARES:
    noisy = weights.load_checkpoint(classroom.SHIPPED)
    numbers = classroom.generator(0)
    for name, parameter in noisy.model.named_parameters():
        if PART in name:
            noise = torch.randn(parameter.shape, generator=numbers)
            parameter.data += share * parameter.std(unbiased=False) * noise
    pictures += [*draw(noisy, ["Severe cardiomegaly. Small left pleural effusion."], seeds=[3], size=256, steps=12)]
classroom.show(pictures, [f"noise of {share:.0%}" for share in SHARES], columns=len(SHARES), inches=2.2)

# %% [markdown]
# ## If you have the real files
#
# `docs/checkpoints.md` says where they are. Then, from the project's folder:
#
#     python weights.py inspect weights/UniX
#     python sample.py "Small left pleural effusion." --weights weights/UniX
#     python weights.py convert weights/Janus-Pro-1B weights/start --vae weights/vae/kl-f16d16.ckpt
