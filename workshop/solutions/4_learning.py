# %% exercise: start
def start(trained, fresh):
    """Two UniX of one size. Changes `fresh` in place."""
    fresh.load_state_dict(dict(trained.und_parameters()), strict=False)
    fresh.copy_und_to_gen()


# %% exercise: repa
def repa(projected, target):
    """projected and target: (B, tokens, width) -> a scalar in [-1, 1]; -1 is perfect."""
    along = (projected * target).sum(dim=-1)
    cosine = along / (projected.norm(dim=-1) * target.norm(dim=-1))
    return -cosine.mean()


# %% exercise: gain
def gain(error, prompts):
    """error(prompts) -> (N,) errors, one a picture, of the velocity with these prompts. Returns the prompt gain."""
    right = error(prompts).mean()
    other = error(prompts[1:] + prompts[:1]).mean()
    return (other - right) / right
