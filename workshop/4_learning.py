# %% [markdown]
# # Lesson 4: learning to see and to draw
#
# The paper trains in stages. Stage 1 teaches the und branch to read. Stage 2 freezes it and teaches the gen branch to
# draw, with REPA as a second teacher. In this lesson both happen on your laptop, in minutes. Then you ask what REPA is
# worth here: with and without it, from the same start, two seeds each.
#
# A few hundred examples make no good model. What you see is how learning begins.
#
# *A research and teaching tool, not a medical device. The model here knows phantoms only, rendered by a program.*

# %% setup
import classroom

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import experiments
from checks import lesson_4 as check
from evaluation.metrics import derangement
from evaluation.phantom import score_reading
from phantoms.dataset import phantom
from sample import draw, load_model, read
from weights import load_checkpoint

# %% [markdown]
# ## What there is to learn from
#
# A phantom is a film that a program rendered, with its report. 240 of them, seed 0, are for training. Others, seed 1,
# are for looking whether anything was learnt: the model never trains on those.

# %%
unseen = [phantom(1, index) for index in range(16)]
classroom.show([p.image for p in unseen[:4]], [p.impression.replace(". ", ".\n") for p in unseen[:4]], inches=2.6)

# %% [markdown]
# ## Two starts
#
# Stage 1 keeps the eye of the shipped model, its ViT, as the paper keeps SigLIP's. The language model starts from
# random numbers: it knows no word. `experiments.before_reading` makes that start.
#
# Stage 2 begins with a gen branch that is a *copy* of the und branch ("inherited LLM backbone", section 3).
#
# ### Exercise 1
#
# Make the start of stage 2: give the fresh model the und branch of the trained one, and then a gen branch that is its
# copy. Nothing that the trained model knows about drawing may come along. `und_parameters()` yields names and
# parameters; `load_state_dict(..., strict=False)` takes some of a model's tensors; `copy_und_to_gen()` does what it
# says.


# %% exercise: start
def start(trained, fresh):
    """Two UniX of one size. Changes `fresh` in place."""
    ...


# %%
print(check.start(start))

# %% [markdown]
# ## Stage 1: to see
#
# Eq. 1 is the loss: the next token of the report, given the film and the tokens before, in nats a token. A model that
# knows nothing but the size of its vocabulary starts near the dotted line, ln(vocabulary).
#
# This is what you would type in a terminal, about a minute of one core:
#
#     python train.py --stage 1 --init out/workshop/before-reading --data phantom:240 --steps 80 --batch 8 \
#         --mix 0:1 --decay 0 --ema 0 --optimizer adamw --lr 1e-3
#
# **Before you run it, guess:** which comes first, to talk like a report, or to look at the film?

# %%
reading = ["--stage", 1, "--init", experiments.before_reading(), "--data", "phantom:240", "--steps", 80, "--batch", 8]
logs = experiments.train({"reading": reading + ["--look-every", 80]})

plt.figure(figsize=(6, 2.6))
plt.plot([line["step"] for line in logs["reading"]], [line["loss"] for line in logs["reading"]])
plt.axhline(np.log(classroom.checkpoint().model.config.vocab_size), ls=":", color="grey")
plt.xlabel("step of 8 examples")
plt.ylabel("loss, nats a token")
plt.show()

# %% [markdown]
# What does it say about films that it has never seen? And how much of it is right? The rule-based labeler reads the
# report, and F1 compares its labels with what the phantom shows. *control* holds each report against another film: what
# is left when nobody looks.

# %%
reader = load_model(experiments.run_folder("reading"), "cpu", torch.float32)
reports = read(reader, [Image.fromarray(p.image) for p in unseen], max_new_tokens=80)
for p, report in list(zip(unseen, reports))[:5]:
    print(f"truth:  {p.impression}\nreport: {report}\n")
scores = score_reading(unseen, reports, derangement(len(unseen), seed=0))
print(f"micro F1 {scores['generated']['micro'][0]:.2f}, control {scores['control']['micro'][0]:.2f}")

# %% [markdown]
# **Question:** which sentences does it repeat, and why does the loss reward that? Which findings does it see after 640
# examples, and what do they have in common?
#
# ## Stage 2: to draw
#
# The und branch is the shipped one now, and frozen. The gen branch starts as its copy. The loss is Eq. 2, the squared
# error of the velocity, and with REPA half of this beside it: the hidden states of the latent tokens after layer
# `repa_layer`, projected by a small MLP, should point where the features of a trained eye point.
#
# ### Exercise 2
#
# Write REPA's loss: the cosine of the angle between each token's projection and its target, averaged over all tokens,
# negated. No `torch.nn.functional.cosine_similarity`, please.


# %% exercise: repa
def repa(projected, target):
    """projected and target: (B, tokens, width) -> a scalar in [-1, 1]; -1 is perfect."""
    ...


# %%
print(check.repa(repa))

# %% [markdown]
# ### Exercise 3
#
# The loss hides whether the model follows its prompt: no prompt can predict most of a velocity's error. So the project
# measures the *prompt gain*: the share by which the error grows when the pictures exchange their prompts. 0 means that
# prompts are ignored. Write it. Nobody may keep their own prompt.


# %% exercise: gain
def gain(error, prompts):
    """error(prompts) -> (N,) errors, one a picture, of the velocity with these prompts. Returns the prompt gain."""
    ...


# %%
print(check.gain(gain))

# %% [markdown]
# ### Four runs
#
# With REPA and without, two seeds each. All four begin with the same weights. Runs of one seed see the same examples
# with the same noise in the same order; only the loss differs. Muon moves the matrices, as in the recipe of the tiny
# model; by AdamW, the paper's, the same pictures teach less (`docs/speedrun.md`). About three minutes on two cores.
#
# **Before you run it, guess:** will REPA help within 960 pictures? In the loss, in the pictures, or in the prompt gain?

# %%
drawing = ["--stage", 2, "--init", experiments.before_drawing(), "--data", "phantom:240", "--steps", 120, "--batch", 8]
drawing += ["--optimizer", "muon", "--lr", 3e-3]
runs = {
    f"{name}, seed {seed}": drawing + ["--repa-weight", weight, "--seed", seed, "--look-every", 120]
    for seed in (0, 1)
    for name, weight in (("REPA", 0.5), ("without", 0))
}
logs = experiments.train(runs)

# %%
plt.figure(figsize=(6.5, 3))
for name, log in logs.items():
    errors = np.array([line.get("mse", line["loss"]) for line in log])  # with REPA, "mse" is the part that Eq. 2 has
    smooth = np.convolve(errors, np.ones(10) / 10, mode="valid")
    with_repa, second = name.startswith("REPA"), name.endswith("1")
    plt.plot(
        np.arange(10, len(errors) + 1),
        smooth,
        color="C0" if with_repa else "C1",
        ls="--" if second else "-",
        label=name,
    )
plt.xlabel("step of 8 examples")
plt.ylabel("error of the velocity (Eq. 2),\nmean of 10 steps")
plt.legend()
plt.show()

# %% [markdown]
# The same prompts and the same noise for each run:

# %%
prompts = ["No acute cardiopulmonary process.", "Severe cardiomegaly.", "Large left pleural effusion."]
for name in runs:
    drawer = load_model(experiments.run_folder(name), "cpu", torch.float32)
    pictures = draw(drawer, prompts, seeds=[5, 5, 5], size=128, steps=12)
    classroom.show(pictures, [f"{name}:\n{prompt}" for prompt in prompts], inches=2)

# %% [markdown]
# And the table. *last 20 steps* is the mean error of Eq. 2 there. The prompt gain is of 32 phantoms that nobody trained
# on. A difference between REPA and not is worth a word only if it is larger than that between two seeds.

# %%
print(f"{'':18}{'error, last 20 steps':>22}{'prompt gain at t = 0.9':>24}{'0.7':>8}{'0.5':>8}")
for name, log in logs.items():
    error = np.mean([line.get("mse", line["loss"]) for line in log[-20:]])
    gains = experiments.prompt_gain(load_checkpoint(experiments.run_folder(name)), seed=1, n=32, size=128)
    print(f"{name:18}{error:22.3f}{gains[0.9]:24.1%}{gains[0.7]:8.1%}{gains[0.5]:8.1%}")

# %% [markdown]
# What was measured in the run that is printed here:
#
# - **The error: hardly anything.** With REPA 1.24 and 1.30, without 1.33 and 1.29: in one pair REPA is
#   0.09 lower, in the other there is no difference, and two seeds with REPA differ by 0.05.
# - **The pictures: no chest yet.** With REPA two dark lungs and a bright middle begin to show, without it hardly. A
#   prompt changes almost nothing.
# - **The prompt gain: in one pair.** Seed 0 has 0.5, 0.8 and 0.7 % with REPA and 0.1 % without, seed 1 nothing in
#   either run. Two pairs can raise the question, not answer it.
#
# That says little about the paper. It trains for 75,000 steps of 256 pictures; yours saw 960 pictures. Its target is
# RadDino, an eye that has seen hundreds of thousands of films; here it is the model's own small ViT. For comparison,
# the shipped model saw 140,000 pictures, and its prompt gain is 18 to 37 % at 256 px (`docs/results.md`, which also has
# REPA's worth after 800 steps).
#
# ## Experiment: where does REPA's gain begin?
#
# Nobody has measured this for the tiny model. Choose one and share the work in the room: a smaller or a larger weight
# (`--repa-weight 2`); twice the steps (a run goes on where it stopped if you raise `--steps` and nothing else); a third
# seed; or 480 phantoms. Keep the rest as it was and give the run a name of its own. Predict first, and write down what
# you found, also if it is nothing.

# %%
# experiments.train({"REPA 2, seed 0": drawing + ["--repa-weight", 2, "--seed", 0, "--look-every", 120]})
