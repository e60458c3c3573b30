# %% [markdown]
# Wrong answers to lesson 1, several to each exercise. Each must be told in words of its own.

# %% exercise: joint attention
def joint_attention(words, latents, und, gen, mask):
    x = torch.cat([words, latents])
    q, k, v = (x @ und[name].T for name in ("q", "k", "v"))
    mixed = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(~mask, -math.inf).softmax(dim=1) @ v
    return mixed[: len(words)] @ und["out"].T, mixed[len(words) :] @ und["out"].T


# %% exercise: joint attention
def joint_attention(words, latents, und, gen, mask):
    q, k, v = (torch.cat([words @ und[name].T, latents @ gen[name].T]) for name in ("q", "k", "v"))
    mixed = (q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1) @ v
    return mixed[: len(words)] @ und["out"].T, mixed[len(words) :] @ gen["out"].T


# %% exercise: joint attention
def joint_attention(words, latents, und, gen, mask):
    q, k, v = (torch.cat([words @ und[name].T, latents @ gen[name].T]) for name in ("q", "k", "v"))
    mixed = (q @ k.T).masked_fill(~mask, -math.inf).softmax(dim=1) @ v
    return mixed[: len(words)] @ und["out"].T, mixed[len(words) :] @ gen["out"].T


# %% exercise: joint attention
def joint_attention(words, latents, und, gen, mask):
    return words @ torch.ones(5, 5), latents


# %% exercise: drawing mask
def drawing_mask(T, G):
    return torch.ones(T + 2 + G, T + 2 + G, dtype=torch.bool).tril()


# %% exercise: drawing mask
def drawing_mask(T, G):
    return torch.ones(T + 2 + G, T + 2 + G, dtype=torch.bool)


# %% exercise: drawing mask
def drawing_mask(T, G):
    mask = torch.ones(T + 2 + G, T + 2 + G, dtype=torch.bool)
    mask[:T, :T] = torch.ones(T, T, dtype=torch.bool).tril()
    return mask


# %% exercise: drawing mask
def drawing_mask(T, G):
    mask = torch.ones(T + G, T + G, dtype=torch.bool)
    return mask


# %% exercise: reading positions
def reading_positions(P, T):
    return list(range(P + T))


# %% exercise: reading positions
def reading_positions(P, T):
    return [0] * P + list(range(T))


# %% exercise: reading positions
def reading_positions(P, T):
    return [0] * P


# %% exercise: share inside
def share_inside(word_map, finding):
    return (word_map * finding).sum()


# %% exercise: share inside
def share_inside(word_map, finding):
    return (word_map * finding).sum() / finding.sum()


# %% exercise: share inside
def share_inside(word_map, finding):
    return (word_map * finding).mean() / (word_map.sum() + finding.sum())
