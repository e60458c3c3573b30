# %% [markdown]
# # Lesson 3: what the autoencoder keeps
#
# UniX does not draw pixels. An autoencoder turns a picture of 256 x 256 pixels into 16 x 16 latents of 16 numbers and
# back, and the flow lives among the latents. No flow can draw what is lost on the way. Here you look at it and measure
# it.
#
# *A research and teaching tool, not a medical device. The model here knows phantoms only, rendered by a program.*

# %% setup
import classroom

import matplotlib.pyplot as plt
import numpy as np
import torch

from checks import lesson_3 as check
from phantoms.dataset import phantom

unix = classroom.checkpoint()
vae = unix.vae

# %% [markdown]
# ## There and back
#
# 65,536 grey values become 4,096 numbers, one sixteenth. **Question:** which parts of a film will come back worst: the
# heart, the ribs, a catheter, the grain?

# %%
from studies.autoencoder import rebuild, with_and_without

index = next(i for i in range(200) if with_and_without(1, i, "central venous catheter", 256))
film = phantom(1, index, 256)
back = rebuild(vae, film.image[None])[0]
print(film.impression)
shown = [film.image, back.clip(0, 255).astype(np.uint8), back - film.image]
classroom.show(shown, ["film", "rebuilt", "difference"], inches=2.4)

# %% [markdown]
# ### Exercise 1
#
# The difference in one number: the peak signal-to-noise ratio, $10 \log_{10}(255^2 / \mathrm{mean\ squared\ error})$,
# in decibels. Beware of `uint8`: in it, 3 - 5 is 254.


# %% exercise: psnr
def psnr(a, b):
    """Two (S, S) uint8 pictures -> dB."""
    ...


# %%
print(check.psnr(psnr))


# %%
def copied(image):
    """(S, S) uint8 through the autoencoder and back to uint8."""
    return rebuild(vae, image[None])[0].round().clip(0, 255).astype(np.uint8)


originals = [phantom(1, i, 256).image for i in range(8)]
copies = [copied(image) for image in originals]
print("PSNR of eight phantoms:", " ".join(f"{psnr(a, b):.1f}" for a, b in zip(originals, copies)), "dB")

# %% [markdown]
# ## Latents as pictures
#
# Each of the 16 channels is a small picture of 16 x 16. **Can you tell what a channel stands for?** Nobody told the
# autoencoder to use them in any way.

# %%
with torch.no_grad():
    latents = vae.encode(vae.preprocess(torch.from_numpy(film.image[None].copy())))[0]  # (16, 16, 16)
classroom.show(list(latents.numpy()), [f"channel {c}" for c in range(16)], columns=8, inches=1.2)

# %% [markdown]
# ### Exercise 2
#
# The flow starts from normal noise, of mean 0 and variance 1. Raw latents have another mean and spread, so they are
# normalised by two numbers that travel with the weights:
#
# $$z = \mathrm{scale} \cdot (\mathrm{latent} - \mathrm{shift})$$
#
# Find the two from a set of raw latents.


# %% exercise: scale and shift
def scale_and_shift(latents):
    """latents: a tensor of any shape -> scale, shift: two numbers that give the whole of it mean 0 and variance 1."""
    ...


# %%
print(check.scale_and_shift(scale_and_shift))


# %%
def raw_latents(size, count=16):
    films = torch.from_numpy(np.stack([phantom(1, i, size).image for i in range(count)]))
    with torch.no_grad():
        return torch.cat([vae.posterior(vae.preprocess(part))[0] for part in films.split(4)])


for size in (256, 128):
    scale, shift = scale_and_shift(raw_latents(size))
    print(f"from 16 phantoms of {size} px: scale {scale:.3f}, shift {shift:.3f}")
print(f"in the weights, measured at 128 px: scale {vae.config.scale_factor:.3f}, shift {vae.config.shift_factor:.3f}")
raw = raw_latents(256)
normal = vae.normalise(raw)
plt.figure(figsize=(4.5, 2.4))
plt.hist(normal.flatten().numpy(), bins=80, density=True, color=classroom.GEN, alpha=0.7, label="latents")
grid = np.linspace(-4, 4, 200)
plt.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="black", label="noise")
plt.legend()
plt.title("normalised latents and the noise they start from")
plt.show()

# %% [markdown]
# ## How far does one latent reach?
#
# We push one latent of the grid in one channel and decode. **Question:** how many pixels change, 16 x 16 or more?

# %%
with torch.no_grad():
    pushed = latents[None].repeat(4, 1, 1, 1)
    for i, channel in enumerate((0, 3, 7), start=1):
        pushed[i, channel, 8, 8] += 3
    decoded = vae.decode(pushed).mean(dim=1)
changes = [(each - decoded[0]).numpy() for each in decoded[1:]]
classroom.show(changes, [f"channel {c}, 3 more" for c in (0, 3, 7)], inches=2.2)
for change in changes:
    print("pixels that change by more than 1 grey level:", int((np.abs(change) > 2 / 255).sum()))

# %% [markdown]
# ## What is lost, finding by finding
#
# A picture may look right and have lost a catheter, which is two or three pixels wide. PSNR would hardly notice. So we
# render the **same** chest with and without one finding, send both through the autoencoder, and look at the finding's
# own pixels alone.


# %%
def both_ways(kind, seed=1):
    """The first phantom of a kind, with and without it: true pictures, rebuilt pictures."""
    pair = np.stack(next(p for p in (with_and_without(seed, i, kind, 256) for i in range(500)) if p))
    return pair, rebuild(vae, pair)


for kind in ("central venous catheter", "rib fracture", "mass"):
    true, shown = both_ways(kind)
    difference = true[0].astype(float) - true[1]
    rows, columns = (np.abs(difference) > 8).nonzero()
    centre_row, centre_column = (int(np.clip(np.median(v), 40, 216)) for v in (rows, columns))
    crop = np.s_[centre_row - 40 : centre_row + 40, centre_column - 40 : centre_column + 40]
    classroom.show(
        [true[0][crop], shown[0].clip(0, 255).astype(np.uint8)[crop], difference[crop], (shown[0] - shown[1])[crop]],
        [kind, "rebuilt", "the finding alone", "what is left of it"],
    )

# %% [markdown]
# ### Exercise 3
#
# How much of a finding's contrast is kept? Take the differences *with minus without*, before (`true`) and after
# (`shown`), and find the number $a$ for which $a \cdot \mathrm{true}$ is nearest to $\mathrm{shown}$, in the pixels
# where `own` is True. Least squares through zero: $a = \sum \mathrm{true} \cdot \mathrm{shown} / \sum \mathrm{true}^2$.


# %% exercise: contrast kept
def contrast_kept(true, shown, own):
    """Three (S, S) arrays, the last of bool -> one number; 1 is all of the contrast."""
    ...


# %%
print(check.contrast_kept(contrast_kept))

# %%
from phantoms.truth import KINDS

kept = {}
for kind in KINDS:
    true, shown = both_ways(kind)
    difference = true[0].astype(float) - true[1]
    kept[kind] = contrast_kept(difference, shown[0] - shown[1], np.abs(difference) > 8)
plt.figure(figsize=(5, 3.6))
ordered = sorted(kept, key=kept.get)
plt.barh(ordered, [kept[kind] for kind in ordered], color=classroom.GEN)
plt.axvline(1, color="black", lw=0.8)
plt.title("contrast kept, one phantom of each kind")
plt.tight_layout()
plt.show()

# %% [markdown]
# Nearly all is kept, and yet the first difference above was full of vessels and ribs. An earlier autoencoder of this
# size kept 55 % of a catheter, because its loss hardly noticed (`docs/results.md`). **Which term of `rebuild` in
# `training/pretraining.py` makes a thin line expensive to lose?** `python -m studies.autoencoder` measures several
# phantoms of each kind.
#
# ## Latent arithmetic
#
# Take the latents of a chest with an effusion, minus those of the same chest without. Add the difference to **another**
# patient. Beside it, the same sum in pixels. **Which looks more like a film, and why?**

# %%
from phantoms.truth import truth


def encode(*films):
    with torch.no_grad():
        return vae.encode(vae.preprocess(torch.from_numpy(np.stack(films))))


def decode(latents):
    with torch.no_grad():
        return vae.postprocess(vae.decode(latents)).numpy()


def has_large_effusion(index):
    return any(f.kind == "pleural effusion" and f.severity == "large" for f in truth(1, index).findings)


donor = next(i for i in range(300) if has_large_effusion(i))
healthy = next(i for i in range(300) if not truth(1, i).findings)
sick, well = with_and_without(1, donor, "pleural effusion", 256)
other = phantom(1, healthy, 256).image
z_sick, z_well, z_other = encode(sick, well, other).split(1)
by_latents = decode(z_other + z_sick - z_well)[0]
by_pixels = (other.astype(float) + sick - well).clip(0, 255).astype(np.uint8)
captions = ["donor", "donor without", "another", "sum of latents", "sum of pixels"]
classroom.show([sick, well, other, by_latents, by_pixels], captions)

# %% [markdown]
# The latents know no anatomy: the effusion lands where the donor's diaphragm was. Halfway between two patients shows
# the same from another side.

# %%
patients = [phantom(1, i, 256).image for i in (healthy, donor)]
z = encode(*patients)
shares = (0.0, 0.25, 0.5, 0.75, 1.0)
between = decode(torch.stack([(1 - s) * z[0] + s * z[1] for s in shares]))
pixels = [((1 - s) * patients[0] + s * patients[1].astype(float)).astype(np.uint8) for s in shares]
classroom.show(
    [*between, *pixels], [f"latents, {s:g}" for s in shares] + [f"pixels, {s:g}" for s in shares], columns=5, inches=1.5
)

# %% [markdown]
# So the autoencoder is **not** what makes a chest: between two chests it decodes a double exposure. Nor does it turn
# any noise into a chest. That is the flow's work.

# %%
noise = torch.randn(3, 16, 16, 16, generator=classroom.generator(0))
classroom.show(decode(noise), ["decoded noise"] * 3, inches=1.3)

# %% [markdown]
# ## Why the flow lives there
#
# Attention compares every token with every other. Count what one layer compares for one picture:

# %%
for what, tokens in (
    ("pixels", 256**2),
    ("patches of 4 x 4 pixels", 64**2),
    ("latents, one per 16 x 16 pixels", 16**2),
):
    print(f"{what:34}{tokens:8,} tokens {tokens**2:14,} comparisons a layer and head")

# %% [markdown]
# And the same share of noise does not hide the same things. At each time, upper row: noise added to the latents, then
# decoded. Lower row: noise added to the pixels, with the film scaled to unit variance. **Until which t do you see the
# chest?** Neighbouring pixels say the same, so the eye averages the noise away; neighbouring latents do not.

# %%
times = (0.1, 0.3, 0.5, 0.7, 0.9)
z = encode(film.image)
eps = torch.randn(z.shape, generator=classroom.generator(1))
upper = decode(torch.cat([(1 - t) * z + t * eps for t in times]))
standard = (film.image - film.image.mean()) / film.image.std()
grain = torch.randn(256, 256, generator=classroom.generator(2)).numpy()
lower = [(1 - t) * standard + t * grain for t in times]
classroom.show(
    [*upper, *lower], [f"latents, t = {t}" for t in times] + [f"pixels, t = {t}" for t in times], columns=5, inches=1.5
)

# %% [markdown]
# ## Experiment
#
# No check looks at this one. The model *reads* films too, through another encoder. Let it read copies, made ever worse
# by noise on the latents. Which findings does a report lose first, the thin or the pale ones? Does it invent any? Six
# phantoms are few: how many would you need to be sure?

# %%
from PIL import Image

from reports.labeler import label_report
from sample import read


def findings_of(images):
    """What the model's reports affirm, a set of observations for each image."""
    reports = read(unix, [Image.fromarray(image) for image in images])
    return [{name for name, label in label_report(report).items() if label.value == 1} for report in reports]


for share in (0.0, 0.15, 0.3):
    z = encode(*originals[:6])
    worse = decode((1 - share) * z + share * torch.randn(z.shape, generator=classroom.generator(4)))
    print(f"a share of {share:g} is noise")
    for i, found in enumerate(findings_of(list(worse))):
        true = {name for name, value in phantom(1, i, 64).labels().items() if value}
        lost, new = (", ".join(sorted(names)) or "-" for names in (true - found, found - true))
        print(f"    {', '.join(sorted(true)):28} lost: {lost:28} new: {new}")
