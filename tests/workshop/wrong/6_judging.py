# %% [markdown]
# Wrong answers to lesson 6, several to each exercise. Each must be told in words of its own.

# %% exercise: macro f1
def macro_f1(truth, seen):
    return (truth == seen).mean()


# %% exercise: macro f1
def macro_f1(truth, seen):
    hits, claims = (truth & seen).sum(axis=0), truth.sum(axis=0) + seen.sum(axis=0)
    return np.nan_to_num(2 * hits / np.where(claims, claims, np.nan)).mean()


# %% exercise: macro f1
def macro_f1(truth, seen):
    hits, claims = (truth & seen).sum(axis=0), truth.sum(axis=0) + seen.sum(axis=0)
    return (2 * hits / np.where(claims, claims, np.nan)).mean()


# %% exercise: macro f1
def macro_f1(truth, seen):
    return 2 * (truth & seen).sum() / (truth.sum() + seen.sum())


# %% exercise: macro f1
def macro_f1(truth, seen):
    return np.nanmean((truth & seen).sum(axis=0) / np.where(truth.sum(axis=0), truth.sum(axis=0), np.nan))


# %% exercise: interval
def interval(score, truth, seen, rng, repeats=500):
    N = len(truth)
    scores = [score(truth[rng.integers(N, size=N)], seen[rng.integers(N, size=N)]) for _ in range(repeats)]
    return np.percentile(scores, [2.5, 97.5])


# %% exercise: interval
def interval(score, truth, seen, rng, repeats=500):
    orders = [rng.permutation(len(truth)) for _ in range(repeats)]
    return np.percentile([score(truth[rows], seen[rows]) for rows in orders], [2.5, 97.5])


# %% exercise: interval
def interval(score, truth, seen, rng, repeats=500):
    draws = [rng.integers(len(truth), size=len(truth)) for _ in range(repeats)]
    scores = [score(truth[rows], seen[rows]) for rows in draws]
    return min(scores), max(scores)


# %% exercise: interval
def interval(score, truth, seen, rng, repeats=500):
    draws = [rng.integers(len(truth), size=len(truth)) for _ in range(repeats)]
    return np.percentile([score(truth[rows], seen[rows]) for rows in draws], [0.025, 0.975])


# %% exercise: interval
def interval(score, truth, seen, rng, repeats=500):
    draws = [rng.integers(len(truth), size=10) for _ in range(repeats)]
    return np.percentile([score(truth[rows], seen[rows]) for rows in draws], [2.5, 97.5])


# %% exercise: lie
def lie(report):  # one word before all others changes nothing
    return "No " + report


# %% exercise: lie
def lie(report):  # denies, in other words
    return "FINDINGS: The lungs are clear. IMPRESSION: No acute cardiopulmonary abnormality."


# %% exercise: lie
def lie(report):  # another side, the same findings
    return report.replace("right", "left")
