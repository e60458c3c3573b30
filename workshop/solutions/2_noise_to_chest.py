# %% [markdown]
# Solutions of lesson 2. Each cell replaces the exercise of its title.

# %% exercise: training pair
def training_pair(data, noise, t):
    """data, noise: (B, 2), t: (B, 1) in [0, 1] -> x_t (B, 2), u (B, 2)."""
    return (1 - t) * data + t * noise, noise - data


# %% exercise: euler
def euler(velocity, noise, times):
    """velocity(x, t) with t: (B,); noise: (B, 2) at times[0]; times: a list -> x at times[-1], (B, 2)."""
    x = noise
    for t, t_next in zip(times, times[1:]):
        x = x + (t_next - t) * velocity(x, torch.full((len(x),), t))
    return x


# %% exercise: guidance
def guidance(v_cond, v_uncond, s):
    """Two velocities of one shape and a number -> the guided velocity."""
    return v_uncond + s * (v_cond - v_uncond)
