# %% [markdown]
# # Lesson 2: from noise to chest
#
# A drawing begins as noise and follows a **velocity** to a picture. First you train a velocity in two dimensions, where
# you can see everything, in a few seconds. Then you watch the shipped model do the same with 4,096 numbers.
#
# *A research and teaching tool, not a medical device. The model here knows phantoms only, rendered by a program.*

# %% setup
import classroom
import inspect

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import flow
from checks import lesson_2 as check

unix = classroom.checkpoint()

# %% [markdown]
# ## A chest in two dimensions
#
# Our data are points: places where a film is dark, that is, where there is air. Our noise is a normal cloud. The model
# must learn to move one into the other.

# %%
from phantoms.dataset import phantom

film = phantom(3, 1, 256).image
rng = np.random.default_rng(0)
dark = np.argwhere(
    (film < 90) & (np.abs(np.arange(256) - 128) < 100)
)  # rows and columns of air; no air beside the body


def sample_data(count):
    """Points in the lungs, (count, 2), about zero mean and unit size."""
    rows, columns = (dark[rng.integers(len(dark), size=count)] + rng.random((count, 2))).T
    return torch.tensor(np.stack([(columns - 128) / 50, (128 - rows) / 50], axis=1), dtype=torch.float32)


def scatter(axis, points, title, colour=classroom.GEN):
    axis.scatter(*points.T, s=1.5, color=colour)
    axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", title=title)
    axis.axis("off")


noise = torch.randn(2000, 2, generator=classroom.generator(0))
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.6))
axes[0].imshow(film, cmap="gray")
axes[0].axis("off")
axes[0].set_title("film")
scatter(axes[1], sample_data(2000), "data, t = 0")
scatter(axes[2], noise, "noise, t = 1", "black")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## What to learn
#
# Rectified flow joins a data point and a noise point by a straight line and asks for its slope (Eq. 2):
#
# $$x_t = (1 - t)\,x_{data} + t\,\epsilon, \qquad u = \frac{dx_t}{dt}$$
#
# ### Exercise 1
#
# Return `x_t` and the target velocity `u` for a batch. Derive `u` from the formula. Which way does it point?


# %% exercise: training pair
def training_pair(data, noise, t):
    """data, noise: (B, 2), t: (B, 1) in [0, 1] -> x_t (B, 2), u (B, 2)."""
    ...


# %%
print(check.training_pair(training_pair))

# %% [markdown]
# The project's own lines, for any shape:

# %%
print(inspect.getsource(flow.interpolate))
print(inspect.getsource(flow.velocity_error))

# %% [markdown]
# Now train: sample data, noise and a time, and let a small network guess the slope. **Question:** the loss will not go
# to zero, however long you train. Why? (How many lines cross at one point?)


# %%
class ToyVelocity(nn.Module):
    """v(x, t) for points: three hidden layers that see x, t and two waves of t."""

    def __init__(self, width=96):
        super().__init__()
        sizes = [5, width, width, width]
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x, t):
        """x: (B, 2), t: (B,) -> (B, 2)."""
        t = t[:, None]
        return self.layers(torch.cat([x, t, (3 * t).sin(), (3 * t).cos()], dim=1))


torch.manual_seed(0)
toy = ToyVelocity()
optimizer = torch.optim.AdamW(toy.parameters(), lr=2e-3)
losses = []
for step in range(1500):
    data, eps = sample_data(512), torch.randn(512, 2)
    t = torch.rand(512)
    v = toy(flow.interpolate(data, eps, t), t)
    loss = flow.velocity_error(v, data, eps).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
plt.figure(figsize=(4.5, 2.2))
plt.plot(np.convolve(losses, np.ones(50) / 50, mode="valid"))
plt.xlabel("step")
plt.title("loss of Eq. 2, mean of 50 steps")
plt.show()

# %% [markdown]
# ## Follow the velocity
#
# ### Exercise 2
#
# Walk from noise to data. `times` falls from 1 to 0, in steps of any lengths. Euler takes the velocity at the start of
# a step for the whole step.


# %% exercise: euler
def euler(velocity, noise, times):
    """velocity(x, t) with t: (B,); noise: (B, 2) at times[0]; times: a list -> x at times[-1], (B, 2)."""
    x = noise
    ...
    return None


# %%
print(check.euler(euler))

# %% [markdown]
# `flow.euler` is the same. A velocity that notes where it is asked keeps the path of a walk. **Question before you run
# it:** are the paths straight?


# %%
def walk(velocity, noise, times, solve=flow.euler):
    """All states of a walk, (len(times), B, ...)."""
    states = []

    def noting(x, t):
        states.append(x)
        return velocity(x, t)

    with torch.no_grad():
        last = solve(noting, noise, times)
    return torch.stack([*states, last])


states = walk(toy, noise, flow.timesteps(41, shift=1.0))
figure, axes = plt.subplots(1, 5, figsize=(11, 2.4))
for axis, i in zip(axes[:4], (0, 14, 27, 40)):
    scatter(axis, states[i], f"t = {1 - i / 40:.2f}")
scatter(axes[4], states[-1], "80 paths")
axes[4].plot(states[:, :80, 0], states[:, :80, 1], color="black", lw=0.4)
plt.tight_layout()
plt.show()

# %% [markdown]
# Each training line is straight, yet the paths bend: the network answers with the *mean* of all lines that cross a
# point. Far from the data all lungs are possible and the mean points to the middle. Only on the way is it decided which
# lung.
#
# **Question:** where does a walk of one single step land?

# %%
figure, axes = plt.subplots(1, 5, figsize=(11, 2.4))
for axis, steps in zip(axes, (1, 2, 4, 8, 40)):
    scatter(axis, walk(toy, noise, flow.timesteps(steps + 1, shift=1.0))[-1], f"{steps} step{'s' * (steps > 1)}")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## The shipped model
#
# The same walk, with 16 x 16 latents of 16 channels. The upper row decodes `x` itself. The lower row decodes where the
# velocity points: `x - t * v`, the model's present guess of the picture. **When do you know the diagnosis? When does
# the model?**

# %%
import sample
from sample import GUIDED_ABOVE, prompted_velocities, schedule

model, vae = unix.model, unix.vae


def start(seeds, side=16):
    """Noise of some seeds, (len(seeds), 16, side, side)."""
    return torch.stack([torch.randn(16, side, side, generator=classroom.generator(seed)) for seed in seeds])


def follow(velocities, noise, solver="ab2", steps=20, guided_above=GUIDED_ABOVE):
    """As `sample.draw`: guided down to `guided_above`, then with the prompt alone."""
    early, late = sample.split_times(schedule(solver, steps), guided_above)
    solve = getattr(flow, solver)
    with torch.inference_mode():
        x = solve(velocities[0], noise, early) if len(early) > 1 else noise
        return solve(velocities[1], x, late) if len(late) > 1 else x


def decode(latents):
    with torch.inference_mode():
        return vae.postprocess(vae.decode(latents)).numpy()


sentence = "Large left pleural effusion."
velocities = prompted_velocities(model, [unix.encode(sentence)], guidance=2.0)
noise = start([4])
path = []


def noting(velocity):
    return lambda x, t: path.append((x, t[0].item())) or velocity(x, t)


follow([noting(velocity) for velocity in velocities], noise)
chosen = path[::3]
guesses = [x - t * velocities[0](x, torch.tensor([t])) for x, t in chosen]
frames = decode(torch.cat([x for x, _ in chosen] + guesses))
captions = [f"t = {t:.2f}" for _, t in chosen] + [f"guess at {t:.2f}" for _, t in chosen]
classroom.show(frames, captions, columns=len(chosen), inches=1.6)

# %% [markdown]
# ## How many steps?
#
# An evaluation of the model is what costs. Euler's error falls with the step, that of a solver of order 2 with its
# square. Adams-Bashforth (`flow.ab2`) is of order 2 with **one** evaluation a step: it remembers the last velocity.

# %%
print(inspect.getsource(flow.ab2))

# %%
truth = follow(velocities, noise, "heun", 41)
figure, axis = plt.subplots(figsize=(5, 3.2))
for solver, style, counts in (
    ("euler", "-o", (6, 11, 21, 41)),
    ("ab2", "-s", (6, 11, 21)),
    ("heun", "--^", (4, 6, 11)),
):
    evaluations, errors = [], []
    for steps in counts:
        arrived = follow(velocities, noise, solver, steps)
        evaluations.append((steps - 1) * (2 if solver == "heun" else 1))
        errors.append(((arrived - truth).norm() / truth.norm()).item())
    axis.loglog(evaluations, errors, style, label=solver)
axis.set(xlabel="evaluations of the model", ylabel="relative error of the latents", xticks=[5, 10, 20, 40])
axis.set_xticklabels(["5", "10", "20", "40"])
axis.legend()
plt.show()

# %% [markdown]
# An error is a number; look at what it does to a picture. The first is the reference, of 80 evaluations.

# %%
few = [("euler", 6), ("ab2", 6), ("euler", 20), ("ab2", 20)]
pictures = decode(torch.cat([truth, *[follow(velocities, noise, *each) for each in few]]))
classroom.show(pictures, ["reference"] + [f"{solver}, {steps - 1} evaluations" for solver, steps in few])

# %% [markdown]
# ## Guidance
#
# The model gives a velocity with the prompt and one without. Guidance goes beyond the first, away from the second:
#
# $$v = v_{uncond} + s\,(v_{cond} - v_{uncond})$$
#
# ### Exercise 3
#
# Write it. Which `s` means "no prompt", which "the prompt alone"?


# %% exercise: guidance
def guidance(v_cond, v_uncond, s):
    """Two velocities of one shape and a number -> the guided velocity."""
    ...


# %%
print(check.guidance(guidance))

# %% [markdown]
# `flow.guide` also shrinks the result to the length of `v_cond`, because a longer velocity makes pictures too
# contrasted. Below: one noise, growing guidance. Guidance costs two evaluations, so it stops at t = 0.4; in the last
# picture it goes on to the end. **What gets lost as the scale grows?**

# %%
sentence = "Small right pleural effusion. Right pacemaker."
noise = start([11])
pictures, captions = [], []
for scale, above in ((1.0, 0.4), (2.0, 0.4), (4.0, 0.4), (10.0, 0.4), (4.0, 0.0)):
    velocities = prompted_velocities(model, [unix.encode(sentence)], scale)
    pictures.append(decode(follow(velocities, noise, steps=12, guided_above=above))[0])
    captions.append(f"scale {scale:g}" + (", to the end" if above == 0 else ""))
classroom.show(pictures, captions)

# %% [markdown]
# ## One word
#
# The same noise, two prompts between which one word changes. The third picture is their difference.


# %%
def show_pair(one, other, seed=3):
    pictures = sample.draw(unix, [one, other], [seed, seed], steps=12)
    difference = pictures[0].astype(float) - pictures[1]
    classroom.show([*pictures, difference], [one, other, "difference"], inches=2.2)


show_pair("Large left pneumothorax.", "Small left pneumothorax.")
show_pair("Large left pneumothorax.", "Large right pneumothorax.")

# %% [markdown]
# How much does the velocity itself differ along the way? Both velocities are asked at the same `x`, on the first
# prompt's path. **At which t would you change the word, if you could do it only once?**

# %%
one, other = (
    prompted_velocities(model, [unix.encode(f"Large {side} pneumothorax.")], 1.0)[1] for side in ("left", "right")
)
times, heed = [], []
with torch.inference_mode():
    noise = start([3])

    def compare(x, t):
        v = one(x, t)
        times.append(t[0].item())
        heed.append(((v - other(x, t)).norm() / v.norm()).item())
        return v

    flow.ab2(compare, noise, schedule("ab2", 12))
plt.figure(figsize=(4.5, 2.4))
plt.plot(times, heed, "-o")
plt.gca().invert_xaxis()
plt.xlabel("t (noise is left, data right)")
plt.ylabel("|difference| / |v|")
plt.show()

# %% [markdown]
# ## Experiment
#
# No check looks at this one. Walk with *left* down to a time, then with *right*. When is it too late to change one's
# mind? Is it the time at which the curve above is highest? Does it depend on the finding: a heart, a tube, an effusion?


# %%
def change_of_mind(first, then, at, seed=3, scale=2.0):
    """`first` is the prompt above time `at`, `then` below it: (256, 256) uint8."""
    early, late = sample.split_times(flow.timesteps(12, shift=2.0, through=at), at)
    x = start([seed])
    with torch.inference_mode():
        for prompt, part in ((first, early), (then, late)):
            if len(part) > 1:
                x = flow.ab2(prompted_velocities(model, [unix.encode(prompt)], scale)[0], x, part)
    return decode(x)[0]


switches = (0.95, 0.85, 0.7, 0.5, 0.3)
pictures = [change_of_mind("Large left pneumothorax.", "Large right pneumothorax.", at) for at in switches]
classroom.show(pictures, [f"left until t = {at:g}" for at in switches])
