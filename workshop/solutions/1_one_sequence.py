# %% [markdown]
# Solutions of lesson 1. Each cell replaces the exercise of its title.

# %% exercise: joint attention
def joint_attention(words, latents, und, gen, mask):
    """words (U, d), latents (G, d), mask (U + G, U + G) -> the mixed words (U, d) and latents (G, d)."""
    q, k, v = (torch.cat([words @ und[name].T, latents @ gen[name].T]) for name in ("q", "k", "v"))  # Eq. 3 and 4
    scores = q @ k.T / math.sqrt(q.shape[1])
    mixed = scores.masked_fill(~mask, -math.inf).softmax(dim=1) @ v  # Eq. 5
    U = len(words)
    return mixed[:U] @ und["out"].T, mixed[U:] @ gen["out"].T


# %% exercise: drawing mask
def drawing_mask(T, G):
    """(T + 2 + G, T + 2 + G) bool: True where the row's token may look at the column's."""
    mask = torch.ones(T + 2 + G, T + 2 + G, dtype=torch.bool)
    mask[:T, T:] = False  # the prompt never sees the block
    mask[:T, :T] = torch.ones(T, T, dtype=torch.bool).tril()
    return mask


# %% exercise: reading positions
def reading_positions(P, T):
    """A list of P + T whole numbers."""
    return [0] * P + list(range(1, T + 1))


# %% exercise: share inside
def share_inside(word_map, finding):
    """word_map: (h, w), not negative, of any sum; finding: (h, w) in 0..1 -> a number in 0..1."""
    return (word_map * finding).sum() / word_map.sum()
