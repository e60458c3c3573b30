# %% [markdown]
# Wrong answers to lesson 5, several to each exercise. Each must be told in words of its own.

# %% exercise: moved
def moved(before, after):
    now = dict(after.named_parameters())
    return {name for name, parameter in before.named_parameters() if not torch.allclose(parameter, now[name])}


# %% exercise: moved
def moved(before, after):
    now = dict(after.named_parameters())
    return {name for name, parameter in before.named_parameters() if torch.equal(parameter, now[name])}


# %% exercise: moved
def moved(before, after):
    pairs = zip(before.named_parameters(), after.named_parameters())
    return {name for (name, one), (_, two) in pairs if one.abs().double().sum() != two.abs().double().sum()}


# %% exercise: moved
def moved(before, after):
    return [one for one, two in zip(before.parameters(), after.parameters()) if not torch.equal(one, two)]


# %% exercise: batch for
def batch_for(mix, drawings):
    return drawings


# %% exercise: batch for
def batch_for(mix, drawings):
    other, own = map(int, mix.split(":"))
    return drawings / own * (other + own)


# %% exercise: batch for
def batch_for(mix, drawings):
    other, own = map(int, mix.split(":"))
    return drawings // own * (other + own)


# %% exercise: batch for
def batch_for(mix, drawings):
    other, own = map(int, mix.split(":"))
    return drawings * (other + own)
