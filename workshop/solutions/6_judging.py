# %% exercise: macro f1
def macro_f1(truth, seen):
    """truth and seen: (N, observations) bool -> a number in [0, 1]."""
    hits = (truth & seen).sum(axis=0)
    claims = truth.sum(axis=0) + seen.sum(axis=0)  # 2 TP + FP + FN
    counted = claims > 0
    return (2 * hits[counted] / claims[counted]).mean()


# %% exercise: interval
def interval(score, truth, seen, rng, repeats=500):
    """score(truth, seen) -> a number. Returns the 2.5th and the 97.5th percentile of the resampled scores."""
    N = len(truth)
    scores = []
    for _ in range(repeats):
        rows = rng.integers(N, size=N)
        scores.append(score(truth[rows], seen[rows]))
    return np.percentile(scores, [2.5, 97.5])


# %% exercise: lie
def lie(report):
    """A true report -> one of almost the same words that denies what is there."""
    report = report.replace("There is no ", "THERE IS ").replace("There is ", "There is no ")
    report = report.replace("THERE IS ", "There is no ")  # what was denied stays denied
    return re.sub(r"(FINDINGS: |IMPRESSION: |\. )(?!No |The |There |IMPRESSION)", r"\1No ", report)
