"""Every measure of the evaluation, as plain functions of arrays and strings: of labels, of reports word by word, of
pictures as sets of features, and of how far to trust a score. Knows no model, no file and no flag."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

# ---- labels: F1 and the area under the ROC curve -----------------------------------------------------------------


class F1(NamedTuple):
    """F1 scores of C classes: each, their mean, and that of the pooled counts."""

    per_class: np.ndarray  # (C,) float64
    macro: float
    micro: float


def f1_scores(truth: np.ndarray, prediction: np.ndarray, undefined: float = float("nan")) -> F1:
    """F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall. truth, prediction: (N, C) bool.

    per class; macro: the mean over the classes; micro: of the counts of all classes pooled. A class that is neither
    true nor predicted anywhere has no F1 (0 / 0): it is `undefined`. nan leaves it out of the macro mean; 0.0 counts
    it, as scikit-learn and the published CheXbert tables do. Raises ValueError if the shapes differ.
    """
    scores = f1_from_counts(f1_counts(truth, prediction).sum(axis=0), undefined)
    return F1(scores.per_class, float(scores.macro), float(scores.micro))


def f1_counts(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What each example adds to F1: (N, 2, C) int64, TP and 2 TP + FP + FN. truth, prediction: (N, C) bool."""
    truth, prediction = np.asarray(truth, dtype=bool), np.asarray(prediction, dtype=bool)
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} must be (N, C) alike")
    return np.stack([truth & prediction, truth.astype(np.int64) + prediction], axis=1)


def f1_from_counts(counts: np.ndarray, undefined: float = float("nan")) -> F1:
    """F1 of summed counts (..., 2, C): per_class (..., C), macro and micro (...). For `bootstrap_sums`."""
    hits, claims = counts[..., 0, :], counts[..., 1, :]
    per_class = _ratio(2 * hits, claims, undefined)
    counted = claims > 0 if np.isnan(undefined) else np.ones_like(claims, dtype=bool)
    macro = _ratio(np.where(counted, per_class, 0).sum(axis=-1), counted.sum(axis=-1), undefined)
    return F1(per_class, macro, _ratio(2 * hits.sum(axis=-1), claims.sum(axis=-1), undefined))


def _ratio(above: np.ndarray, below: np.ndarray, undefined: float) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, undefined), where=below > 0)


def area_under_roc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The chance that a positive scores above a negative (Hanley & McNeil 1982), ties half; nan if either is missing.

    scores, truth: (N,), truth 1, 0 or nan for what is not known.
    """
    positive, negative = scores[truth == 1], np.sort(scores[truth == 0])
    if not len(positive) or not len(negative):
        return float("nan")
    below, upto = (np.searchsorted(negative, positive, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(negative))


FIVE = (1, 4, 5, 7, 9)  # of OBSERVATIONS: cardiomegaly, edema, consolidation, atelectasis, pleural effusion
UNCERTAIN = ("negative", "positive")  # what an uncertain label counts as, in the halves of Table 2
Scored = tuple[float, float, float]  # a number and its 95 % interval


def chexbert_scores(
    truth: np.ndarray, prediction: np.ndarray, uncertain: str
) -> tuple[dict[str, Scored], list[Scored], list[int]]:
    """One half of Table 2: (its four columns, the F1 of each observation, how often each is true).

    truth, prediction: the labels of the true and the generated reports, (N, 14) in the order of OBSERVATIONS:
    1 positive, 0 negative, -1 uncertain, nan blank. Blank counts as negative; a class neither true nor predicted has
    F1 0, and counts.
    """
    is_true = positives(truth, uncertain)
    counts = f1_counts(is_true, positives(prediction, uncertain))

    def table(sums: np.ndarray) -> np.ndarray:  # (..., 2, 14) -> (..., 18): the four columns, then each class
        all14, five = f1_from_counts(sums, 0.0), f1_from_counts(sums[..., list(FIVE)], 0.0)
        columns = np.stack([all14.micro, five.micro, all14.macro, five.macro], axis=-1)
        return np.concatenate([columns, all14.per_class], axis=-1)

    each = with_intervals(table, counts)
    columns = dict(zip(("micro14", "micro5", "macro14", "macro5"), each, strict=False))
    return columns, each[4:], is_true.sum(axis=0).tolist()


def positives(labels: np.ndarray, uncertain: str) -> np.ndarray:
    """CheXbert labels (N, 14) to bool, with an uncertain one as "positive" or "negative"."""
    return (labels == 1) | ((labels == -1) & (uncertain == "positive"))


# ---- reports: BLEU, ROUGE-L --------------------------------------------------------------------------------------


def tokenize(text: str | Sequence[str]) -> Sequence[str]:
    """Lower-case words and numbers; everything else separates. A list of tokens is left as it is."""
    return re.findall("[a-z0-9]+", text.lower()) if isinstance(text, str) else text


def bleu_counts(references: Sequence[str | Sequence[str]], hypotheses: Sequence[str | Sequence[str]]) -> np.ndarray:
    """What each report adds to BLEU: (N, 10) int64, matches of 1- to 4-grams, their number, and both lengths.

    One reference each. Strings are split by `tokenize`, lists of tokens are taken as they are.
    """
    rows = []
    for reference, hypothesis in zip(map(tokenize, references), map(tokenize, hypotheses), strict=True):
        wanted, matches = n_grams(reference), [0, 0, 0, 0]
        for gram, count in n_grams(hypothesis).items():
            matches[len(gram) - 1] += min(count, wanted[gram])
        totals = [max(1, len(hypothesis) - n) for n in range(4)]  # at least 1, as nltk has it
        rows.append([*matches, *totals, len(hypothesis), len(reference)])
    return np.array(rows, dtype=np.int64)


def bleu_from_counts(counts: np.ndarray, weights: Sequence[float] = (1, 1 / 2, 1 / 3, 1 / 4)) -> np.ndarray:
    """BLEU-1, -2, -3, -4 (Papineni et al. 2002) in [0, 1]: counts (..., 10) -> (..., 4). For `bootstrap_sums`.

    The counts of each report give each report's BLEU; the mean of those is what UniX's evaluation takes, and is nltk's
    `sentence_bleu`. Counts summed over the reports first give `corpus_bleu`, which others report, R2Gen among them.
    Numbers compare only between equal tokens: UniX's are nltk's `word_tokenize`, with case and punctuation. An empty
    hypothesis scores 0. weights: of each order in BLEU-1 to -4; UniX's evaluation has 0.33 for BLEU-3, so that a
    perfect report still scores 1.

    Smoothing (Chen and Cherry 2014, method 4, as nltk has it): the j-th order without a match gets
    ln(length) / (5 * 2^j) matches. nltk leaves an order without matches out if the hypothesis is a single token.
    """
    counts = np.asarray(counts, dtype=np.float64)
    matches, totals, length, reference_length = counts[..., :4], counts[..., 4:8], counts[..., 8:9], counts[..., 9:]
    missing = matches == 0
    smoothed = np.log(np.maximum(length, 1)) / (5 * 2.0 ** missing.cumsum(axis=-1))
    precision = np.where(missing, smoothed, matches) / totals
    log_precision = np.log(precision, out=np.zeros_like(precision), where=precision > 0)
    brevity = np.exp(np.minimum(0, 1 - reference_length / np.maximum(length, 1)))
    scores = brevity * np.exp(log_precision.cumsum(axis=-1) * np.asarray(weights))
    return np.where(missing[..., :1], 0, scores)  # not one word in common


def agreement(references: Sequence[Sequence[str]]) -> Callable[[Sequence[str]], float]:
    """Corpus BLEU-4 of one text given as the answer to every reference, as a function of the text. Lists of tokens.

    For many texts and the same references: their n-grams are counted once.
    """
    at_least: Counter = Counter()  # (n-gram, k) -> references that have it k times or more
    for reference in references:
        at_least.update((gram, k) for gram, count in n_grams(reference).items() for k in range(1, count + 1))
    number, length = len(references), sum(map(len, references))

    def bleu_4(text: Sequence[str]) -> float:
        matches = [0, 0, 0, 0]
        for gram, count in n_grams(text).items():
            matches[len(gram) - 1] += sum(at_least[gram, k] for k in range(1, count + 1))
        totals = [number * max(1, len(text) - n) for n in range(4)]
        return float(bleu_from_counts(np.array([*matches, *totals, number * len(text), length]))[3])

    return bleu_4


def n_grams(words: Sequence[str]) -> Counter:
    """1- to 4-grams as tuples, each with its count."""
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def rouge_l(references: Sequence[str | Sequence[str]], hypotheses: Sequence[str | Sequence[str]]) -> np.ndarray:
    """ROUGE-L F of each report (Lin 2004): (N,) in [0, 1]. The score of a set is its mean.

    The harmonic mean of the longest common subsequence's share in the reference and in the hypothesis, as `rouge-score`
    without stemming. No token in either gives 0.
    """
    pairs = zip(map(tokenize, references), map(tokenize, hypotheses), strict=True)
    return np.array([2 * _common_subsequence(a, b) / max(1, len(a) + len(b)) for a, b in pairs])


def bootstrap_median(values: np.ndarray, repeats: int = 500, seed: int = 0) -> Scored:
    """The median of the means of `repeats` draws of N from the (N,) values, and the 95 % interval of those means.

    This is what `rouge-score`'s BootstrapAggregator calls the score of a set, and what UniX reports for ROUGE-L; theirs
    is random in every run, ours with numpy's legacy generator from `seed`.
    """
    rng = np.random.RandomState(seed)
    means = [np.mean(values[rng.randint(len(values), size=len(values))]) for _ in range(repeats)]
    low, median, high = np.percentile(means, [2.5, 50, 97.5])
    return float(median), float(low), float(high)


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as bits of one integer (Hyyrö 2004).

    A bit of `row` is 0 where the table's row steps up by one, so the zeros of the last row are the length.
    """
    where = dict.fromkeys(a, 0)
    for i, token in enumerate(a):
        where[token] |= 1 << i
    full = row = (1 << len(a)) - 1
    for token in b:
        matched = row & where.get(token, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(a) - row.bit_count()


# ---- pictures: distances of two sets of features -----------------------------------------------------------------

BLOCK = 1 << 20  # entries of a block of a distance or kernel matrix: 8 MB


def _features(*sets: np.ndarray) -> list[torch.Tensor]:
    """As tensors (N, D) float64."""
    tensors = [torch.from_numpy(np.array(one, dtype=np.float64)) for one in sets]
    if not all(one.isfinite().all() for one in tensors):
        raise ValueError("features contain inf or nan")
    return tensors


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians fitted to the features (Heusel et al. 2017, the formula of FID).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), A and B the covariances. features: (N, D), N at least 2, in
    the square of their unit. It is biased upwards for small N: compare only distances of equal N. Raises ValueError for
    inf or nan.
    """
    a, b = _features(features_a, features_b)
    # With A = R_a^T R_a, the trace of the root is the sum of the singular values of R_a R_b^T. No covariance is formed
    # and no eigenvalue rooted, so nothing is lost where it is singular: for N < D, or a constant feature.
    centred = ((one - one.mean(dim=0)) / (len(one) - 1) ** 0.5 for one in (a, b))
    root_a, root_b = (torch.linalg.qr(one, mode="r").R for one in centred)  # (min(N, D), D)
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return max(0.0, float(shift + root_a.square().sum() + root_b.square().sum() - 2 * cross))


def kernel_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Kernel distance, KD or KID (Bińkowski et al. 2018): squared maximum mean discrepancy, unbiased, so it may be < 0.

    The kernel is (x.y / D + 1)^3; the mean over all pairs within a, and within b, less twice the mean between them.
    features: (N, D), N at least 2, not necessarily equal. Over all samples: CheXGenBench, which made Table 3's numbers,
    takes torchmetrics' subsets as large as the smaller set, so for equal N it is this. Raises ValueError as
    `frechet_distance`.
    """
    a, b = _features(features_a, features_b)
    n, m = len(a), len(b)

    def of_all(x: torch.Tensor, y: torch.Tensor) -> float:
        """Sum of the kernel over all pairs."""
        return sum((x[rows] @ y.T / x.shape[1] + 1).pow(3).sum().item() for rows in _row_blocks(len(x), len(y)))

    def with_itself(x: torch.Tensor) -> float:
        return (x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum().item()

    within = (of_all(a, a) - with_itself(a)) / (n * (n - 1)) + (of_all(b, b) - with_itself(b)) / (m * (m - 1))
    return within - 2 * of_all(a, b) / (n * m)


def _row_blocks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, BLOCK // columns)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def prdc_samples(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, np.ndarray]:
    """What each sample adds to precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    real: (N, D) and fake: (M, D), both of more than k rows; CheXGenBench, which made Table 3's numbers, takes k = 5.
    The measures are the means over the samples, as in the package `prdc`:

        precision  (M,)  is the fake inside some real ball?
        recall     (N,)  is the real inside some fake ball?
        density    (M,)  how many real balls are around the fake, in units of k; may exceed 1
        coverage   (N,)  is a fake inside the real's ball?

    Every sample has a ball, open, that reaches to its k-th nearest neighbour in its own set. What equals a radius up to
    1e-12 is not inside. Raises ValueError as `frechet_distance`.
    """
    real, fake = _features(real, fake)
    real_radii, fake_radii = (_nearest(one, one, k + 1)[0][:, k] * (1 - 1e-12) for one in (real, fake))  # 0: itself
    recalled, covered = real.new_zeros(len(real), dtype=bool), real.new_zeros(len(real), dtype=bool)
    balls_around = real.new_zeros(len(fake), dtype=torch.int64)
    for rows, distances in _distances(fake, real):  # (fakes of the block, N)
        in_real = distances < real_radii
        balls_around[rows] = in_real.sum(dim=1)
        covered |= in_real.any(dim=0)
        recalled |= (distances < fake_radii[rows, None]).any(dim=0)
    density = balls_around.double() / k
    samples = {"precision": density > 0, "recall": recalled, "density": density, "coverage": covered}
    return {name: values.double().numpy() for name, values in samples.items()}


def table_3(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, float | Scored]:
    """The columns of Table 3 but for the alignment; of those that are means over samples with their intervals."""
    each = {name: mean_scores(values)[0] for name, values in prdc_samples(real, fake, k).items()}
    return {"fd": frechet_distance(real, fake), "kd": kernel_distance(real, fake), **each}


def nearest(queries: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each query's nearest key: distance (N,) and index (N,). A drawing that is a training picture has 0."""
    distances, index = _nearest(*_features(queries, keys), 1)
    return distances[:, 0].numpy(), index[:, 0].numpy()


def _nearest(queries: torch.Tensor, keys: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest keys (M, D) of each query (N, D), nearest first: distances and indices, (N, k)."""
    found = [distances.topk(k, largest=False) for _, distances in _distances(queries, keys)]
    return torch.cat([distances for distances, _ in found]), torch.cat([index for _, index in found])


def _distances(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """A block of rows of a at a time: which, and their distances to all of b, (rows, M).

    From the differences: |a|^2 + |b|^2 - 2 a.b is ten times as fast, but cancels where neighbours are near each other
    and far from the origin.
    """
    for rows in _row_blocks(len(a), len(b)):
        yield rows, torch.cdist(a[rows], b, compute_mode="donot_use_mm_for_euclid_dist")


# ---- what a score stands beside, and how far to trust it -----------------------------------------------------------


def bootstrap_sums(
    statistic: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, repeats: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile interval (low, high) of a statistic of sums over the examples (Efron 1979), by one product.

    counts: (N, ...), what each example adds. statistic: takes the sums of all draws, (repeats, ...), gives
    (repeats, ...). The mean of scores (N,) is `lambda sums: sums / N`. Draws where the statistic is nan (a class that
    no example in them has) are left out.
    """
    counts, n = np.asarray(counts, dtype=np.float64), len(counts)
    rng = np.random.default_rng(seed)
    weights = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(repeats)]).astype(np.float64)
    values = statistic((weights @ counts.reshape(n, -1)).reshape(repeats, *counts.shape[1:]))
    with warnings.catch_warnings():  # a class that nobody has is nan in every draw, and so is its interval
        warnings.filterwarnings("ignore", "All-NaN slice")
        low, high = np.nanquantile(values, [0.025, 0.975], axis=0)
    return low, high


def with_intervals(statistic: Callable[[np.ndarray], np.ndarray], counts: np.ndarray) -> list[Scored]:
    """The numbers of a statistic of all examples, each with its interval; arguments as of `bootstrap_sums`."""
    parts = (statistic(np.asarray(counts).sum(axis=0)), *bootstrap_sums(statistic, counts))
    return list(zip(*(np.atleast_1d(part).tolist() for part in parts), strict=True))


def mean_scores(values: np.ndarray) -> list[Scored]:
    """The mean of each column of (N, C), or of (N,), with its interval."""
    return with_intervals(lambda sums: sums / len(values), values)


def derangement(n: int, seed: int) -> np.ndarray:
    """A random permutation (n,) that leaves no index in its place: one cycle through all. n at least 2.

    The control of every table: answers held against the truth of other examples.
    """
    order = np.random.default_rng(seed).permutation(n)
    partner = np.empty(n, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner
