# %% [markdown]
# Wrong answers to lesson 2, several to each exercise. Each must be told in words of its own.

# %% exercise: training pair
def training_pair(data, noise, t):
    return (1 - t) * data + t * noise, data - noise


# %% exercise: training pair
def training_pair(data, noise, t):
    return t * data + (1 - t) * noise, noise - data


# %% exercise: training pair
def training_pair(data, noise, t):
    x = (1 - t) * data + t * noise
    return x, noise - x


# %% exercise: euler
def euler(velocity, noise, times):
    x = noise
    for t, t_next in zip(times, times[1:]):
        x = x + (t - t_next) * velocity(x, torch.full((len(x),), t))
    return x


# %% exercise: euler
def euler(velocity, noise, times):
    x = noise
    for t, t_next in zip(times, times[1:]):
        x = x + (t_next - t) * velocity(x, torch.full((len(x),), t_next))
    return x


# %% exercise: euler
def euler(velocity, noise, times):
    x = noise
    for t in times[:-1]:
        x = x - velocity(x, torch.full((len(x),), t)) / (len(times) - 1)
    return x


# %% exercise: euler
def euler(velocity, noise, times):
    x = noise
    for t, t_next in zip(times, times[1:]):
        x = x + (t_next - t) * velocity(noise, torch.full((len(x),), t))
    return x


# %% exercise: guidance
def guidance(v_cond, v_uncond, s):
    return v_cond + s * (v_cond - v_uncond)


# %% exercise: guidance
def guidance(v_cond, v_uncond, s):
    return v_uncond + s * (v_uncond - v_cond)


# %% exercise: guidance
def guidance(v_cond, v_uncond, s):
    return s * v_cond
