"""A tokenizer that is trained on a few reports takes every text."""


def test_any_text_encodes_and_comes_back(micro):
    for text in ("Small left pleural effusion.", "Épanchement pleural gauche minime.", "右側胸水。 🫁", "<|eos|>"):
        ids = micro.encode(text)
        assert not {0, 1, 2, 3} & set(ids)  # no special token can be typed
        assert micro.decode(ids) == text
