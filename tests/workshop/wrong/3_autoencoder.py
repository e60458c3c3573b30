# %% [markdown]
# Wrong answers to lesson 3, several to each exercise. Each must be told in words of its own.

# %% exercise: psnr
def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a - b).mean())


# %% exercise: psnr
def psnr(a, b):
    return 20 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


# %% exercise: psnr
def psnr(a, b):
    return 10 * np.log(255**2 / np.square(a.astype(float) - b).mean())


# %% exercise: psnr
def psnr(a, b):
    return 10 * np.log10(1 / np.square(a.astype(float) - b).mean())


# %% exercise: scale and shift
def scale_and_shift(latents):
    return latents.std(), latents.mean()


# %% exercise: scale and shift
def scale_and_shift(latents):
    return 1 / latents.std(), -latents.mean()


# %% exercise: scale and shift
def scale_and_shift(latents):
    return 1 / latents.var(), latents.mean()


# %% exercise: contrast kept
def contrast_kept(true, shown, own):
    return (true * shown).sum() / np.square(true).sum()


# %% exercise: contrast kept
def contrast_kept(true, shown, own):
    return (true * shown)[own].sum() / np.square(shown[own]).sum()


# %% exercise: contrast kept
def contrast_kept(true, shown, own):
    return (shown[own] / true[own]).mean()
