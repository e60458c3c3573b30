"""The measures against the packages that define them (torchmetrics, prdc, scikit-learn, nltk, rouge-score) and
against closed formulas."""

import time

import numpy as np
import pytest
import sklearn.metrics
import torch
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from prdc import compute_prdc
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from common.observations import OBSERVATIONS
from evaluation import metrics
from evaluation.metrics import (
    bleu_counts,
    bleu_from_counts,
    bootstrap_sums,
    f1_scores,
    frechet_distance,
    kernel_distance,
    nearest,
    prdc_samples,
    rouge_l,
)


def features(n, width, seed=0, shift=0.0, dtype=np.float64):
    """Gaussian, with variances that fall from 1 to 1 / width."""
    x = np.random.default_rng(seed).standard_normal((n, width))
    return (x * np.arange(1, width + 1) ** -0.5 + shift).astype(dtype)


# ---- F1


def random_labels(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], p=[0.25, 0.2, 0.1, 0.45], size=(n, 14))
    labels[:, 10] = np.nan  # a class that never occurs
    return labels


def test_f1_of_a_hand_made_case():
    """Class 0: TP 1, FP 1, FN 0: 2/3. Class 1: TP 0, FP 0, FN 1: 0. Class 2: nothing. Pooled: 2 / (2 + 1 + 1) = 1/2."""
    truth = np.array([[1, 1, 0], [0, 0, 0]], dtype=bool)
    prediction = np.array([[1, 0, 0], [1, 0, 0]], dtype=bool)
    left_out, counted = f1_scores(truth, prediction), f1_scores(truth, prediction, undefined=0.0)
    np.testing.assert_allclose(left_out.per_class, [2 / 3, 0, np.nan])
    np.testing.assert_allclose(counted.per_class, [2 / 3, 0, 0])
    assert (left_out.macro, counted.macro) == pytest.approx((1 / 3, 2 / 9))
    assert left_out.micro == counted.micro == 0.5


def test_f1_of_nothing():
    nothing = np.zeros((3, 2), dtype=bool)
    assert np.isnan([f1_scores(nothing, nothing).macro, f1_scores(nothing, nothing).micro]).all()
    assert f1_scores(nothing, nothing, undefined=0.0)[1:] == (0.0, 0.0)
    with pytest.raises(ValueError, match="alike"):
        f1_scores(nothing, nothing[:2])


def test_the_five_classes_are_the_papers():
    five = {OBSERVATIONS[i] for i in metrics.FIVE}
    assert five == {"Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"}


@pytest.mark.parametrize("uncertain", ["negative", "positive"])
def test_chexbert_scores_are_sklearns(uncertain):
    truth, prediction = random_labels(300, 0), random_labels(300, 1)
    prediction[::2] = truth[::2]
    columns, per_class, support = metrics.chexbert_scores(truth, prediction, uncertain)
    a, b = ((x == 1) | ((x == -1) & (uncertain == "positive")) for x in (truth, prediction))
    report = sklearn.metrics.classification_report(a, b, output_dict=True, zero_division=0, target_names=OBSERVATIONS)
    np.testing.assert_allclose([each[0] for each in per_class], [report[name]["f1-score"] for name in OBSERVATIONS])
    assert support == [report[name]["support"] for name in OBSERVATIONS]
    assert columns["micro14"][0] == pytest.approx(report["micro avg"]["f1-score"])
    assert columns["macro14"][0] == pytest.approx(report["macro avg"]["f1-score"])
    five = [
        OBSERVATIONS.index(x) for x in ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
    ]
    for average in ("micro", "macro"):
        expected = sklearn.metrics.f1_score(a[:, five], b[:, five], average=average)
        value, low, high = columns[f"{average}5"]
        assert value == pytest.approx(expected) and low < value < high


def test_chexbert_scores_of_a_case_by_hand():
    """Two reports. True: edema and uncertain fracture; effusion. Said: uncertain edema; effusion and fracture denied.

    Uncertain as negative: edema FN, effusion TP: pooled 2 / (2 + 1) = 2/3; effusion 1, so macro 1/14 and 1/5.
    Uncertain as positive: edema TP, fracture FN, effusion TP: 4 / (4 + 1) = 4/5 over 14, 1 over 5; macro 2/14 and 2/5.
    """
    truth, said = np.full((2, 14), np.nan), np.full((2, 14), np.nan)
    edema, effusion, fracture = (OBSERVATIONS.index(name) for name in ("Edema", "Pleural Effusion", "Fracture"))
    truth[0, edema], truth[0, fracture], truth[1, effusion] = 1, -1, 1
    said[0, edema], said[1, effusion], said[1, fracture] = -1, 1, 0
    for uncertain, expected, fractures in (
        ("negative", (2 / 3, 2 / 3, 1 / 14, 1 / 5), 0),
        ("positive", (4 / 5, 1, 2 / 14, 2 / 5), 1),
    ):
        columns, _, support = metrics.chexbert_scores(truth, said, uncertain)
        assert [value for value, _, _ in columns.values()] == pytest.approx(expected)
        assert list(columns) == ["micro14", "micro5", "macro14", "macro5"] and support[fracture] == fractures


# ---- BLEU, ROUGE-L

WORDS = metrics.tokenize("the heart is mildly enlarged small left pleural effusion no pneumothorax lungs are clear")


def reports(n=40, seed=0):
    """Pairs of any likeness; at the end the awkward ones."""
    rng = np.random.default_rng(seed)
    references, hypotheses = [], []
    for _ in range(n):
        reference = rng.choice(WORDS, size=rng.integers(1, 40)).tolist()
        keep = rng.random(len(reference)) < rng.random()
        hypothesis = [word if kept else str(rng.choice(WORDS)) for word, kept in zip(reference, keep, strict=True)]
        references.append(" ".join(reference))
        hypotheses.append(" ".join(hypothesis[: rng.integers(1, 40)]))
    references += ["No effusion.", "clear", "Heart: NORMAL, 2.5 cm; clear", "heart normal", "a b c d e f", "a b c d"]
    hypotheses += ["", "clear", "heart... normal! 2.5 CM", "lungs clear", "f e d c b a", "a x b"]
    return references, hypotheses


def mean_bleu(references, hypotheses):
    return bleu_from_counts(bleu_counts(references, hypotheses)).mean(axis=0)


def pooled_bleu(references, hypotheses):
    return bleu_from_counts(bleu_counts(references, hypotheses).sum(axis=0))


def nltk_bleu(score, references, hypotheses):
    weights = [(1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0), (1 / 3, 1 / 3, 1 / 3, 0), (1 / 4,) * 4]
    return [score(references, hypotheses, one, SmoothingFunction().method4) for one in weights]


def test_bleu_is_nltks():
    references, hypotheses = reports()
    tokens = [metrics.tokenize(one) for one in references], [metrics.tokenize(one) for one in hypotheses]
    each = [nltk_bleu(sentence_bleu, [a], b) for a, b in zip(*tokens, strict=True)]
    np.testing.assert_allclose(bleu_from_counts(bleu_counts(references, hypotheses)), each, atol=1e-9)
    np.testing.assert_allclose(mean_bleu(references, hypotheses), np.mean(each, axis=0), atol=1e-9)
    np.testing.assert_allclose(mean_bleu(*tokens), np.mean(each, axis=0), atol=1e-9)
    pooled = nltk_bleu(corpus_bleu, [[one] for one in tokens[0]], tokens[1])
    np.testing.assert_allclose(pooled_bleu(references, hypotheses), pooled, atol=1e-9)
    assert np.abs(np.mean(each, axis=0) - pooled).min() > 1e-3  # the two are not the same thing


def test_rouge_l_is_rouge_scores():
    references, hypotheses = reports()
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    theirs = [scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(references, hypotheses, strict=True)]
    np.testing.assert_allclose(rouge_l(references, hypotheses), theirs, atol=1e-9)
    assert min(theirs) == 0 and max(theirs) == 1 and len(set(theirs)) > 20


def test_three_thousand_reports_take_seconds():
    rng = np.random.default_rng(0)
    made = [" ".join(rng.choice(WORDS, size=100)) for _ in range(3000)]
    began = time.process_time()
    mean_bleu(made, made[::-1]), rouge_l(made, made[::-1])
    assert time.process_time() - began < 10  # measured: 0.9 s


# ---- the Fréchet and the kernel distance


class Identity(torch.nn.Module):
    """The feature extractor that torchmetrics asks for, where the images already are features."""

    num_features = 768

    def forward(self, x):
        return x


@pytest.mark.parametrize("n", [900, 300])  # more and fewer samples than dimensions
def test_frechet_distance_is_torchmetrics(n):
    a, b = features(n, 768, 0), features(n, 768, 1, shift=0.05)
    theirs = FrechetInceptionDistance(feature=Identity())
    theirs.update(torch.from_numpy(a), real=True)
    theirs.update(torch.from_numpy(b), real=False)
    assert frechet_distance(a, b) == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert frechet_distance(a.astype(np.float32), b) == pytest.approx(frechet_distance(a, b), rel=1e-5)


def exact_gaussian(n, width, seed):
    """(n, width) with mean exactly 0 and covariance exactly 1, so that closed forms hold without sampling error."""
    x = np.random.default_rng(seed).standard_normal((n, width))
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_distance_of_known_gaussians():
    """Commuting covariances: |m|^2 + sum (sqrt(a) - sqrt(b))^2. One feature is constant."""
    a, b, shift = np.array([1.0, 4.0, 9.0]), np.array([4.0, 0.25, 0.0]), np.array([1.0, 0.0, -2.0])
    features_a, features_b = exact_gaussian(100, 3, 1) * np.sqrt(a), exact_gaussian(60, 3, 2) * np.sqrt(b) + shift
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(features_a, features_b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_correlated_gaussians():
    """Covariances that do not commute: the cross term from the eigenvalues of A B, a formula the code does not use."""
    rng = np.random.default_rng(3)
    mix_a, mix_b = rng.standard_normal((2, 4, 4))
    features_a, features_b = exact_gaussian(90, 4, 4) @ mix_a.T, exact_gaussian(80, 4, 5) @ mix_b.T
    cov_a, cov_b = mix_a @ mix_a.T, mix_b @ mix_b.T
    cross = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real).sum()
    expected = np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    assert frechet_distance(features_a, features_b) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "width"), [(200, 8), (5, 128), (2, 1)])
def test_frechet_distance_of_equal_and_of_shifted_sets(n, width):
    x = features(n, width)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x + 1) == pytest.approx(width, rel=1e-12)


def kernel_distance_by_definition(a, b):
    def k(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(a), len(b)
    within = [(k(x, x).sum() - np.trace(k(x, x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return sum(within) - 2 * k(a, b).sum() / (n * m)


@pytest.mark.parametrize("block", [50, 7000, 1 << 20])  # one row at a time, several blocks, one block
def test_kernel_distance_is_its_definition_in_any_blocks(monkeypatch, block):
    monkeypatch.setattr(metrics, "BLOCK", block)
    a, b = features(100, 768, 0), features(120, 768, 1, shift=0.1)
    expected = kernel_distance_by_definition(a, b)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(a.astype(np.float32), b) == pytest.approx(expected, rel=1e-4)
    assert kernel_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_is_torchmetrics():
    a, b = (torch.from_numpy(features(200, 768, seed, shift)) for seed, shift in ((0, 0.0), (1, 0.1)))
    assert kernel_distance(a, b) == pytest.approx(poly_mmd(a, b).item(), rel=1e-9)

    theirs = KernelInceptionDistance(feature=Identity(), subsets=5, subset_size=50)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    torch.manual_seed(3)
    mean, std = theirs.compute()
    torch.manual_seed(3)  # draws the same subsets
    ours = [kernel_distance(*(one[torch.randperm(200)[:50]].numpy() for one in (a, b))) for _ in range(5)]
    assert (np.mean(ours), np.std(ours)) == pytest.approx((mean.item(), std.item()), rel=1e-9)


def test_kernel_distance_knows_no_bias():
    """Of two samples of one distribution it is 0 on average; twenty pairs stay within 3 standard errors."""
    values = [kernel_distance(features(40, 16, 2 * i), features(60, 16, 2 * i + 1)) for i in range(20)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / 20**0.5


# ---- PRDC, neighbours


def prdc(real, fake, k=5):
    return [values.mean() for values in prdc_samples(real, fake, k).values()]


def reference_prdc(real, fake, k):
    result = compute_prdc(real, fake, k)
    return [result[name] for name in ("precision", "recall", "density", "coverage")]


CONSTANT = np.arange(16) != 3  # one feature is the same for all


@pytest.mark.parametrize("block", [3000, 1 << 20])
@pytest.mark.parametrize(
    ("real", "fake", "k"),
    [
        (features(700, 768, 0), features(500, 768, 1) * 0.97 + 0.005, 5),
        (features(300, 4, 2), features(400, 4, 3) * 0.5, 3),
        (features(60, 768, 4), features(50, 768, 5), 1),  # fewer samples than dimensions
        (features(200, 64, 6) + 1e3, features(200, 64, 7) + 1e3, 5),  # far from the origin
        (features(200, 16, 8) * CONSTANT, features(200, 16, 9) * CONSTANT, 5),
    ],
)
def test_prdc_is_the_packages(monkeypatch, block, real, fake, k):
    monkeypatch.setattr(metrics, "BLOCK", block)
    expected = reference_prdc(real, fake, k)
    assert prdc(real, fake, k) == pytest.approx(expected, abs=1e-9)
    assert 0 < expected[0] < 1 or 0 < expected[1] < 1  # not a trivial case


@pytest.mark.parametrize("block", [3000, 1 << 20])
def test_prdc_where_float32_cannot_tell_distances_apart(monkeypatch, block):
    """Clusters 1e4 apart, with spread 1: the products' rounding is larger than all distances within a cluster."""
    monkeypatch.setattr(metrics, "BLOCK", block)
    centers = np.random.default_rng(0).standard_normal((3, 32)) * 1e4
    real, fake = (features(150, 32, seed) + centers[np.arange(150) % 3] for seed in (1, 2))
    assert prdc(real, fake, 4) == pytest.approx(reference_prdc(real, fake, 4), abs=1e-9)
    gaps = np.linalg.norm(real[:, None] - fake[None], axis=2)
    distances, index = nearest(fake, real)
    np.testing.assert_allclose(distances, gaps.min(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(index, gaps.argmin(axis=0))


def test_prdc_of_identical_sets():
    """A ball holds its center and the k - 1 nearer neighbours; the k-th is on its edge, not inside: density 1."""
    x = features(150, 20, dtype=np.float32)
    assert prdc(x, x[::-1], 5) == pytest.approx((1, 1, 1, 1), abs=1e-12)


def test_prdc_of_a_collapsed_model():
    """One picture over and over, a real one: always precise, in the balls that hold it, and it recalls nothing."""
    real = features(100, 8)
    fake = np.repeat(real[:1], 50, axis=0)
    gaps = np.linalg.norm(real[:, None] - real[None], axis=2)
    holding = (gaps[:, 0] < np.sort(gaps, axis=1)[:, 5]).sum()  # column 0 of the sorted gaps is the point itself
    assert prdc(real, fake, 5) == pytest.approx((1, 0, holding / 5, holding / 100))


@pytest.mark.parametrize("block", [200, 1 << 20])
def test_nearest_finds_copies(monkeypatch, block):
    monkeypatch.setattr(metrics, "BLOCK", block)
    keys = features(90, 32, 0, dtype=np.float32)
    queries = np.concatenate([keys[[40, 7]], features(30, 32, 1, dtype=np.float32)])
    distances, index = nearest(queries, keys)
    gaps = np.linalg.norm(queries[:, None].astype(np.float64) - keys[None], axis=2)
    np.testing.assert_allclose(distances, gaps.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(index, gaps.argmin(axis=1))
    assert distances[:2].tolist() == [0, 0] and index[:2].tolist() == [40, 7]
    assert nearest(queries[:1], keys[:1])[1].tolist() == [0]


def test_set_measures_refuse_what_is_no_number():
    fine = features(10, 3)
    for bad in (np.nan, np.inf):
        for measure in (frechet_distance, kernel_distance, prdc_samples, nearest):
            with pytest.raises(ValueError, match="inf or nan"):
                measure(fine, np.where(fine > 0.5, bad, fine))


# ---- the bootstrap


def bootstrap_by_definition(statistic, n, repeats, seed=0):
    """The statistic of each draw of n examples with replacement, one draw at a time; their 95 % interval."""
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(n, size=n)) for _ in range(repeats)]
    return np.nanquantile(values, [0.025, 0.975], axis=0)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    x = np.random.default_rng(0).standard_normal(2000)
    low, high = bootstrap_sums(lambda sums: sums / len(x), x, repeats=4000)
    half = 1.96 * x.std() / len(x) ** 0.5
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.08 * half)


def test_bootstrap_of_counts_is_the_definition_and_fast():
    rng = np.random.default_rng(0)
    truth, prediction = rng.random((2, 3000, 14)) < 0.1
    truth[:, 3] = prediction[:, 3] = False  # undefined in every draw
    truth[:, 4], prediction[:, 4] = np.arange(3000) < 1, False  # undefined in some
    counts = metrics.f1_counts(truth, prediction)

    def slow(undefined):
        def scores(draw):
            f1 = f1_scores(truth[draw], prediction[draw], undefined)
            return np.array([f1.macro, f1.micro, f1.per_class[4], f1.per_class[5]])

        return bootstrap_by_definition(scores, 3000, repeats=50, seed=4)

    for undefined in (0.0, float("nan")):

        def fast(sums, undefined=undefined):
            f1 = metrics.f1_from_counts(sums, undefined)
            return np.stack([f1.macro, f1.micro, f1.per_class[:, 4], f1.per_class[:, 5]], axis=-1)

        np.testing.assert_allclose(bootstrap_sums(fast, counts, repeats=50, seed=4), slow(undefined))
    began = time.process_time()
    low, high = bootstrap_sums(lambda sums: metrics.f1_from_counts(sums, 0.0).micro, counts)
    assert time.process_time() - began < 1  # measured: 0.1 s
    assert low < f1_scores(truth, prediction).micro < high


def test_bootstrap_of_pooled_bleu():
    references, hypotheses = reports()
    counts = bleu_counts(references, hypotheses)

    def pooled(draw):
        return pooled_bleu([references[i] for i in draw], [hypotheses[i] for i in draw])

    slow = bootstrap_by_definition(pooled, len(references), repeats=30)
    np.testing.assert_allclose(bootstrap_sums(bleu_from_counts, counts, repeats=30), slow)


def test_bootstrap_edges():
    assert bootstrap_sums(lambda sums: sums, [3.0]) == (3.0, 3.0)
    assert metrics.mean_scores(np.full((2, 2), 3.0)) == [(3.0, 3.0, 3.0)] * 2
