"""BERT and its tokenizer against `transformers`, on a real model."""

import torch
from references import MINILM, SENTENCES, close
from transformers import (
    AutoTokenizer,
    BertModel,
)

from checkpoints.layouts import BERT_NAMES, translation
from checkpoints.plan import load_tensors
from checkpoints.tensors import Tensors
from judges.bert import Bert, bert_shapes, read_wordpiece, tokenize


@torch.no_grad()
def test_a_real_bert_on_real_text():
    tensors, tokenizer = Tensors(MINILM), read_wordpiece(MINILM, 30522)
    translate_bert = translation(BERT_NAMES)
    bert = Bert(*bert_shapes(tensors, translate_bert)).eval()
    load_tensors(bert, tensors, translate_bert)
    reference = BertModel.from_pretrained(MINILM, add_pooling_layer=False).eval()
    ids, visible = tokenize(tokenizer, SENTENCES, 512)
    hidden = bert(ids, visible)
    close(hidden[visible], reference(ids, attention_mask=visible).last_hidden_state[visible])


def test_wordpiece_is_the_reference_tokenizer():
    reference = AutoTokenizer.from_pretrained(MINILM)
    expected = [reference(sentence)["input_ids"] for sentence in SENTENCES]
    ids, visible = tokenize(read_wordpiece(MINILM, 30522), SENTENCES, 512)
    assert [row[seen].tolist() for row, seen in zip(ids, visible, strict=True)] == expected


def test_a_vocabulary_is_split_at_line_feeds_alone(tmp_path):
    """Words that hold what Python takes for an end of line keep the words after them at their numbers."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a\u2028b", "\x85", "c\rd", "e\x0bf\x1c", "lung", "heart"]
    for end, last in (("\n", ""), ("\n", "\n"), ("\r\n", "\r\n")):
        (tmp_path / "vocab.txt").write_bytes((end.join(words) + last).encode())
        tokenizer = read_wordpiece(tmp_path, len(words))
        assert [tokenizer.token_to_id(word) for word in words] == list(range(len(words)))
        assert tokenizer.encode("heart lung").ids == [2, 9, 8, 3]


def test_a_text_beyond_the_context_is_cut_and_keeps_its_end():
    tokenizer = read_wordpiece(MINILM, 30522)
    ids, visible = tokenize(tokenizer, ["heart " * 600, "heart"], 512)
    assert ids.shape == (2, 512) and visible.sum(dim=1).tolist() == [512, 3]
    assert ids[0, -1] == ids[1, 2] == tokenizer.token_to_id("[SEP]")
