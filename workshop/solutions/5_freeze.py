# %% exercise: moved
def moved(before, after):
    """Two UniX of one size -> the set of names of the parameters that differ."""
    now = dict(after.named_parameters())
    return {name for name, parameter in before.named_parameters() if not torch.equal(parameter, now[name])}


# %% exercise: batch for
def batch_for(mix, drawings):
    """mix: "OTHER:OWN", for example "1:2" -> the number of examples of both kinds in a step."""
    other, own = map(int, mix.split(":"))
    if drawings % own:
        raise ValueError(f"{drawings} drawing examples cannot be shared out by {mix}")
    return drawings // own * (other + own)
