# %% [markdown]
# # Lesson 1: one sequence, two sets of weights
#
# UniX reads chest X-rays and draws them with **one** decoder. Words, image patches and noisy latents stand in one
# sequence, and each token goes through the weights of its own kind. In this lesson you write that attention yourself,
# find it again in `attention.py`, and draw who may look at whom.
#
# *A research and teaching tool, not a medical device. The model here knows phantoms only, rendered by a program.*

# %% setup
import classroom
import inspect
import math

import matplotlib.pyplot as plt
import torch

from attention import JointAttention, rotary_table
from checks import lesson_1 as check

unix = classroom.checkpoint()  # .model, .vae, .encode(text), .decode(ids)
model = unix.model

# %% [markdown]
# ## What the model does
#
# The same weights draw from a sentence and write about what they drew. **Question:** how many networks do you expect to
# find inside?

# %%
from PIL import Image

from sample import draw, read

prompts = ["Large right pneumothorax.", "Severe cardiomegaly. Small left pleural effusion."]
pictures = draw(unix, prompts, seeds=[1, 2], steps=12)
classroom.show(pictures, [prompt.replace(". ", ".\n") for prompt in prompts], inches=2.4)
for report in read(unix, [Image.fromarray(picture) for picture in pictures]):
    print(report, "\n")

# %% [markdown]
# ## Five tokens and two kinds of weights
#
# Three words and two latents. The words belong to the *understanding* branch (und), the latents to the *generation*
# branch (gen). Eq. 3 projects each token with the matrices of its own kind $m(i)$:
#
# $$q_i = W_q^{m(i)} x_i, \qquad k_i = W_k^{m(i)} x_i, \qquad v_i = W_v^{m(i)} x_i$$
#
# and Eq. 5 lets all of them attend together:
#
# $$\mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}}\right) V$$
#
# After that each token leaves through the output matrix of its own kind.

# %% setup
width = 4
numbers = classroom.generator(0)
words, latents = torch.randn(3, width, generator=numbers), torch.randn(2, width, generator=numbers)
und = {name: torch.randn(width, width, generator=numbers) for name in ("q", "k", "v", "out")}
gen = {name: torch.randn(width, width, generator=numbers) for name in ("q", "k", "v", "out")}

# %% [markdown]
# ### Exercise 1
#
# Write the joint attention. `x @ W.T` applies a matrix to every row of `x`, as `torch.nn.Linear` does. `mask[i, j]` is
# True where token `i` may look at token `j`; a score of `-math.inf` becomes a weight of 0.


# %% exercise: joint attention
def joint_attention(words, latents, und, gen, mask):
    """words (U, d), latents (G, d), mask (U + G, U + G) -> the mixed words (U, d) and latents (G, d)."""
    ...  # Eq. 3: q, k and v of the words with und, of the latents with gen
    ...  # Eq. 4: one sequence, the words first (torch.cat)
    ...  # Eq. 5: scores, mask, softmax, times v
    ...  # split again; each part through its own "out"


# %%
print(check.joint_attention(joint_attention))

# %% [markdown]
# ### The project's lines
#
# `JointAttention` in `attention.py` does this for a batch, with heads and rotary positions. Look for the three
# equations. `qkv` is one matrix with the three stacked.

# %%
print(inspect.getsource(JointAttention.forward))

# %% [markdown]
# Give it your toy matrices, one head, and position 0 for all (a rotation by no angle). **Question:** what will the
# largest difference be?

# %%
attention = JointAttention(width, heads=1, qk_norm=False, qkv_bias=False)
for branch, matrices in ((attention.und, und), (attention.gen, gen)):
    branch.qkv.weight.data = torch.cat([matrices["q"], matrices["k"], matrices["v"]])
    branch.out.weight.data = matrices["out"]
everywhere = torch.ones(5, 5, dtype=torch.bool)
no_rotation = rotary_table(torch.zeros(1, 5), width, 10000.0, torch.float32)
with torch.no_grad():
    theirs = attention(words[None], latents[None], no_rotation, everywhere)
ours = joint_attention(words, latents, und, gen, everywhere)
print("largest difference:", max((a - b[0]).abs().max().item() for a, b in zip(ours, theirs)))

# %% [markdown]
# ## Who may look at whom
#
# A drawing sequence is `[BOS prompt EOS]`, which is causal, then the image block `[BOI latents EOI]`. The block sees
# the whole prompt and all of itself. The prompt never sees the block. In the code the und tokens come first, so the
# block is laid out as `[BOI EOI | latents]`: attention does not care about order.
#
# ### Exercise 2
#
# Write the mask of a prompt of `T` tokens (BOS and EOS counted) and a block of BOI, EOI and `G` latents. Row `i` says
# what token `i` may look at.


# %% exercise: drawing mask
def drawing_mask(T, G):
    """(T + 2 + G, T + 2 + G) bool: True where the row's token may look at the column's."""
    ...


# %%
print(check.drawing_mask(drawing_mask))

# %% [markdown]
# `UniX.drawing_sequence` makes embeddings, positions and mask of a real drawing; `UniX.reading_sequence` those of a
# reading. Here are both, with a small grid of latents so that you can count. Blue tokens use und, orange ones gen. The
# numbers are rotary positions: **why may all latents share one?**


# %%
def show_mask(axis, mask, names, positions, gen_from, title):
    """mask: (S, S) bool; names and positions: S each; tokens from `gen_from` on are gen's."""
    axis.imshow(mask, cmap="Greys", vmin=0, vmax=1.6)
    axis.set_xticks(range(len(names)), positions, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for i, (x, y) in enumerate(zip(axis.get_xticklabels(), axis.get_yticklabels())):
        x.set_color(classroom.UND if i < gen_from else classroom.GEN)
        y.set_color(classroom.UND if i < gen_from else classroom.GEN)
    axis.set(title=title, xlabel="rotary position")


def tokens(text):
    return [unix.tokenizer.decode([i]).strip() for i in unix.encode(text)]


prompt = "Small left pleural effusion."
figure, axes = plt.subplots(1, 2, figsize=(10, 5))
with torch.no_grad():
    x = torch.randn(1, 16, 2, 3, generator=classroom.generator(0))
    _, _, positions, mask = model.drawing_sequence(x, torch.tensor([0.7]), [unix.encode(prompt)])
names = ["BOS", *tokens(prompt), "EOS", "BOI", "EOI", *["z"] * 6]
show_mask(axes[0], mask[0, 0], names, positions[0].tolist(), len(names) - 6, "drawing: row looks at column")

image = torch.zeros(1, 5, model.config.hidden_size)  # BOI, three patches, EOI
question, answer = "Write the FINDINGS.", "Large effusion."
text = [model.config.bos, *unix.encode(question), model.config.eos, model.config.bos, *unix.encode(answer)]
with torch.no_grad():
    _, positions, mask = model.reading_sequence(image, torch.tensor([text]))
names = ["BOI", *["p"] * 3, "EOI", "BOS", *tokens(question), "EOS", "BOS", *tokens(answer)]
show_mask(axes[1], mask, names, positions[0].tolist(), len(names), "reading: row looks at column")
plt.tight_layout()
plt.show()

# %% [markdown]
# ### Exercise 3
#
# The image of a reading has `P` tokens (BOI and EOI counted), then come `T` tokens of text. Which rotary position does
# each have? Read them off the right picture.


# %% exercise: reading positions
def reading_positions(P, T):
    """A list of P + T whole numbers."""
    ...


# %%
print(check.reading_positions(reading_positions))

# %% [markdown]
# ## What would leak?
#
# Suppose somebody forgets one line of the mask, and the prompt may look at the block. **Question:** which tokens then
# change when only the noise changes: the prompt's, BOI's, the latents'?
#
# The loop below is all that `UniX.run_layers` does. We run two different noises and compare the und tokens after every
# layer.

# %%
prompt_ids = unix.encode("Moderate cardiomegaly. Small left pleural effusion.")
T = len(prompt_ids) + 2  # BOS and EOS


@torch.no_grad()
def und_states(x, t, prompts, leak=False):
    """The und tokens after each layer, (layers, B, T + 2, width). leak: the prompt sees the block."""
    und, gen, positions, mask = model.drawing_sequence(x, t, prompts)
    if leak:
        T = und.shape[1] - 2
        mask[..., :T, T:] = True
    config, states = model.config, []
    rotary = rotary_table(positions, config.hidden_size // config.num_heads, config.rope_theta, und.dtype)
    for layer in model.layers:
        und, gen = layer(und, gen, rotary, mask)
        states.append(und)
    return torch.stack(states)


t = torch.tensor([0.7])
noises = [torch.randn(1, 16, 16, 16, generator=classroom.generator(seed)) for seed in (0, 1)]
for leak in (False, True):
    one, other = (und_states(x, t, [prompt_ids], leak)[:, 0] for x in noises)
    change = (one - other).norm(dim=2) / one.norm(dim=2)  # (layers, T + 2)
    layers, style = range(1, len(change) + 1), "--o" if leak else "-o"
    plt.plot(layers, change[:, :T].mean(dim=1), style, color="black", label=f"prompt{', leaking mask' if leak else ''}")
    if not leak:
        plt.plot(layers, change[:, T], style, color=classroom.UND, label="BOI")
        print("largest change of the prompt with the right mask:", change[:, :T].max().item())
plt.xlabel("layer")
plt.ylabel("relative change of the state")
plt.title("two noises, one prompt")
plt.legend()
plt.gcf().set_size_inches(5, 3)
plt.show()

# %% [markdown]
# With the right mask the prompt does not move at all. So its keys and values can be computed **once** and serve every
# step of the sampler: this is `read_prompt`, then `velocity` for each step. With the leak each step would have to read
# the prompt again, and the frozen und branch would meet noise that it was never trained on.

# %%
import time

prompt = model.read_prompt([prompt_ids])
with torch.no_grad():
    whole = model(noises[0], t, [prompt_ids])
    cached = model.velocity(noises[0], t, prompt)
    print("largest difference:", (whole - cached).abs().max().item())
    for name, run in (
        ("whole sequence", lambda: model(noises[0], t, [prompt_ids])),
        ("cached prompt", lambda: model.velocity(noises[0], t, prompt)),
    ):
        began = time.process_time()
        for _ in range(10):
            run()
        print(f"{name}: {100 * (time.process_time() - began):.0f} ms of processor time a step")

# %% [markdown]
# ## What BOI knows that the prompt does not
#
# BOI and EOI go through the **und** weights but stand inside the block, so the noise reaches them. Can one tell from
# BOI's last state how noisy the picture is? We fit a straight line (ridge regression) from states to `t` on half of
# some noised phantoms and predict `t` for the other half. **Question:** what will the same line make of the prompt's
# EOS, the token just before?

# %%
import numpy as np

import flow
from phantoms.dataset import phantom
from phantoms.truth import truth

count = 96
films = torch.from_numpy(np.stack([phantom(5, i, 256).image for i in range(count)]))
with torch.no_grad():
    data = torch.cat([unix.vae.encode(unix.vae.preprocess(part)) for part in films.split(16)])  # (count, 16, 16, 16)
noise = torch.randn(data.shape, generator=classroom.generator(2))


def last_states(t, prompt, batch=16):
    """The last und states of all phantoms at their times: (count, T + 2, width)."""
    x = flow.interpolate(data, noise, t)
    rows = [slice(i, i + batch) for i in range(0, count, batch)]
    return torch.cat([und_states(x[r], t[r], [prompt] * len(x[r]))[-1] for r in rows])


def foretell(states, target, ridge=10.0):
    """Fit on the first half, predict the second: (count // 2,)."""
    half = len(states) // 2
    mean, spread = states[:half].mean(dim=0), states[:half].std(dim=0) + 1e-3
    x = (states - mean) / spread
    offset = target[:half].mean()
    weights = torch.linalg.solve(
        x[:half].T @ x[:half] + ridge * torch.eye(x.shape[1]), x[:half].T @ (target[:half] - offset)
    )
    return x[half:] @ weights + offset


times = torch.rand(count, generator=classroom.generator(3)) * 0.9 + 0.05
states = last_states(times, prompt_ids)
half = count // 2
figure, axes = plt.subplots(1, 2, figsize=(6, 2.8), sharey=True)
for axis, name, place, colour in ((axes[0], "BOI", T, classroom.UND), (axes[1], "EOS of the prompt", T - 1, "black")):
    guess = foretell(states[:, place], times)
    r = 1 - (guess - times[half:]).square().sum() / (times[half:] - times[half:].mean()).square().sum()
    axis.scatter(times[half:], guess, s=8, color=colour)
    axis.set_title(f"{name}: R² = {r:.2f}")
    axis.set_xlabel("true t")
axes[0].set_ylabel("t foretold")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Where do words look?
#
# `attend` in `attention.py` is the line of Eq. 5. `studies/attention.py` replaces it for a moment by one that keeps the
# softmax of every layer, and makes maps of it: for each word of a report, the attention on the image's patches where
# the word is being **predicted**.
#
# **Attention is no explanation.** A map says what one softmax weighed. It does not say what the model would have
# written without that patch.

# %%
from PIL import Image

from studies.attention import kept_maps, over, report_maps, words_of

film = phantom(1, 42, 256)
print(film.report)
image = Image.fromarray(film.image)
words = [(word, maps.mean(axis=0)) for word, maps in report_maps(unix, image, film.report)]
wanted = ("opacity.", "left", "pneumothorax.", "upper", "mass.")
chosen = [(word, each) for word, each in words if word.lower() in wanted][:5]
classroom.show([film.image, *[over(film.image, each) for _, each in chosen]], ["film", *[word for word, _ in chosen]])

# %% [markdown]
# The layers do not agree. Here is the first "mass." in each of them. **Which layer would you have shown in a paper?**

# %%
mass = dict(reversed(report_maps(unix, image, film.report)))["mass."]  # (layers, 8, 8)
classroom.show([over(film.image, each) for each in mass], [f"layer {i + 1}" for i in range(len(mass))])

# %% [markdown]
# And while the model draws: how much of each latent's attention lies on a word of the prompt, at t = 0.7?

# %%
sentence = "Large right pneumothorax. Left pacemaker."
drawn = draw(unix, [sentence], seeds=[0], size=256, steps=12)[0]
ids, words = words_of(unix, sentence)
t = torch.tensor([0.7])
with torch.no_grad(), kept_maps() as layers:
    latents = unix.vae.encode(unix.vae.preprocess(torch.from_numpy(drawn.copy())[None]))
    unix.model(flow.interpolate(latents, torch.randn(latents.shape, generator=numbers), t), t, [ids])
# The mean over layers and heads; the latents are the last rows, and the prompt's ids the first columns, after BOS.
looks = torch.stack(layers).mean(dim=(0, 1, 2))[-16 * 16 :, 1 : 1 + len(ids)]
maps = [looks[:, pieces].sum(dim=1).unflatten(0, (16, 16)).numpy() for _, pieces in words]
classroom.show([drawn, *[over(drawn, each) for each in maps]], ["drawing", *[word for word, _ in words]])

# %% [markdown]
# ### Exercise 4
#
# A picture convinces too easily. On phantoms we know where a finding lies, so we can count. Given a word's map and the
# share of each cell that belongs to the finding, how much of the map's attention lies inside?


# %% exercise: share inside
def share_inside(word_map, finding):
    """word_map: (h, w), not negative, of any sum; finding: (h, w) in 0..1 -> a number in 0..1."""
    ...


# %%
print(check.share_inside(share_inside))

# %% [markdown]
# Two controls keep us honest: the same maps held against **other** phantoms' findings of the same kind, and the
# finding's share of the picture's area. Only where *inside* is above *others* does the map know this film, and not only
# where such findings usually lie.

# %%
from studies.attention import shares

print(f"{'reading, 8 phantoms each':28}{'inside':>8}{'others':>8}{'area':>8}")
for kind in ("mass", "consolidation", "pneumothorax", "cardiomegaly", "central venous catheter"):
    scores = shares(unix, kind, 8)
    print(f"{kind:28}" + "".join(f"{value:8.3f}" for value in scores.values()))

# %% [markdown]
# A catheter is two or three pixels wide and a patch has sixteen: its map holds little of it, inside or not. The heart
# is in the same place in everybody, so *inside* hardly beats *others*. `python -m studies.attention` prints all kinds.
#
# ## Experiment
#
# No check looks at this one, and we do not know the answer. BOI tells the time. Does it also know the **picture**? The
# cell asks for the width of the heart over the width of the chest, at three times, with a prompt that says nothing
# about it. Change the prompt, the target, the token, the layer. Is 96 phantoms enough to say anything?

# %%
ratios = torch.tensor([truth(5, i).cardiothoracic_ratio for i in range(count)])
for time_ in (0.1, 0.5, 0.9):
    states = last_states(torch.full((count,), time_), unix.encode("Chest."))
    correlation = np.corrcoef(foretell(states[:, -2], ratios, ridge=100.0), ratios[half:])[0, 1]
    print(f"t = {time_}: correlation of the foretold ratio with the true one {correlation:.2f}")
