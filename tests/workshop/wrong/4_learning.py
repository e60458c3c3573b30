# %% [markdown]
# Wrong answers to lesson 4, several to each exercise. Each must be told in words of its own.

# %% exercise: start
def start(trained, fresh):
    fresh.load_state_dict(trained.state_dict())


# %% exercise: start
def start(trained, fresh):
    fresh.load_state_dict(dict(trained.und_parameters()), strict=False)


# %% exercise: start
def start(trained, fresh):
    fresh.copy_und_to_gen()
    fresh.load_state_dict(dict(trained.und_parameters()), strict=False)


# %% exercise: start
def start(trained, fresh):
    fresh.load_state_dict(trained.state_dict())
    fresh.copy_und_to_gen()


# %% exercise: start
def start(trained, fresh):
    fresh.load_state_dict(trained.und_parameters())


# %% exercise: start
def start(trained, fresh):
    trained.copy_und_to_gen()
    fresh.load_state_dict(trained.state_dict())


# %% exercise: repa
def repa(projected, target):
    along = (projected * target).sum(dim=-1)
    return (along / (projected.norm(dim=-1) * target.norm(dim=-1))).mean()


# %% exercise: repa
def repa(projected, target):
    return -(projected * target).sum(dim=-1).mean()


# %% exercise: repa
def repa(projected, target):
    return -(projected * target).sum(dim=-1) / (projected.norm(dim=-1) * target.norm(dim=-1))


# %% exercise: repa
def repa(projected, target):
    return ((projected - target) ** 2).mean()


# %% exercise: repa
def repa(projected, target):
    return -(projected * target).sum() / (projected.norm() * target.norm())


# %% exercise: gain
def gain(error, prompts):
    other = error(prompts[1:] + prompts[:1]).mean()
    return other - error(prompts).mean()


# %% exercise: gain
def gain(error, prompts):
    right, other = error(prompts).mean(), error(prompts[1:] + prompts[:1]).mean()
    return other / right


# %% exercise: gain
def gain(error, prompts):
    right, other = error(prompts).mean(), error(prompts[2:4] + prompts[:2] + prompts[4:]).mean()
    return (other - right) / right


# %% exercise: gain
def gain(error, prompts):
    right, other = error(prompts).mean(), error([prompts[0]] * len(prompts)).mean()
    return (other - right) / right


# %% exercise: gain
def gain(error, prompts):
    right, other = error(prompts), error(prompts[1:] + prompts[:1])
    return (other - right) / right
