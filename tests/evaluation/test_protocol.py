"""--protocol unix: what it sets, from end to end on a small published UniX, and when a heading may claim it."""

import csv
import json
import re
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

import evaluate
import sample
from common.errors import UserError
from common.observations import OBSERVATIONS
from evaluation import metrics, report
from evaluation.protocol import OURS, UNIX, set_drawing_flags
from judges import biovil, chexbert, features
from phantoms.dataset import phantom
from published import golden_folder
from reports.labeler import Label
from reports.questions import question_for
from weights import load_checkpoint

ROOT = Path(__file__).parent.parent.parent
QUESTIONS = [
    "<image>Review this X-ray and provide detailed FINDINGS.",
    "<image>Provide the FINDINGS and IMPRESSION for this chest X-ray.",
    "<image>Review this X-ray and provide detailed FINDINGS.",
]
REFERENCES = [
    "FINDINGS: The heart is stable in size. No pneumothorax.",
    "FINDINGS: Small effusion. RECOMMENDATION: CT. IMPRESSION: 1. Small effusion. 2. No change.",
    "FINDINGS: Clear lungs.",
]


def command(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, flags)])
    evaluate.main()


@pytest.fixture
def their_data(tmp_path):
    """Three made-up films of several shapes, under their test_data.json."""
    rows = []
    for index, (question, reference) in enumerate(zip(QUESTIONS, REFERENCES, strict=True)):
        film = Image.fromarray(phantom(1, index).image).resize([(300, 200), (20, 28), (40, 40)][index])
        film.save(tmp_path / f"{index}.png")
        said = [{"content": question, "role": "user"}, {"content": reference, "role": "assistant"}]
        rows.append({"messages": said, "images": [f"{index}.png"]})
    (tmp_path / "test_data.json").write_text(json.dumps(rows))
    return tmp_path / "test_data.json"


def test_a_published_unix_is_judged_from_their_file_and_from_their_table(
    micro, their_data, tmp_path, monkeypatch, capsys
):
    unix = golden_folder(tmp_path / "UniX", "unix_tiny", micro)
    flags = ("--weights", unix, "--data", their_data, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    monkeypatch.setattr(report, "report_judge", lambda args: ("rules", lambda texts: np.zeros((len(texts), 14))))
    monkeypatch.setattr(
        report, "named", lambda word: replace(UNIX, max_new_tokens=20)
    )  # random weights never end: 499 take a minute
    command(monkeypatch, "report", "--protocol", "unix", *flags)

    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["truth"] for row in rows] == REFERENCES  # whole, with what is neither findings nor impression
    checkpoint = load_checkpoint(unix)
    for row, question in zip(rows, QUESTIONS, strict=True):
        film = [Image.open(row["image"])]
        assert [row["generated"]] == sample.read(checkpoint, film, question.removeprefix("<image>"), max_new_tokens=20)

    text, page = capsys.readouterr().out, (tmp_path / "out/report.html").read_text()
    results = json.loads((tmp_path / "out/results.json").read_text())
    for said in (text, page, results["protocol"]):
        assert "not the authors" in said and "CheXbert" in said
    # The table that their own evaluation writes is scored by its columns, with the same result.
    with open(tmp_path / "understanding_results.csv", "w", newline="") as file:
        table = [(row["image"], row["generated"], row["truth"]) for row in rows]
        csv.writer(file).writerows([("Image Path", "Report Impression", "Ground Truth"), *table])
    flags = ("--predictions", tmp_path / "understanding_results.csv", "--out", tmp_path / "again")
    command(monkeypatch, "report", "--protocol", "unix", *flags)
    assert json.loads((tmp_path / "again/results.json").read_text())["text"] == results["text"]


def theirs(monkeypatch, version):
    """Stand-ins for CheXbert's weights and for the package radgraph, which loads its own."""

    class F1RadGraph:
        def __init__(self, reward_level, model_type):
            assert (reward_level, model_type) == ("partial", "radgraph")

        def __call__(self, refs, hyps):
            return 0.5, [0.5] * len(refs), [], []

    monkeypatch.setitem(sys.modules, "radgraph", types.SimpleNamespace(F1RadGraph=F1RadGraph))
    monkeypatch.setattr(report, "version", lambda name: version)
    nothing = [{name: Label(None) for name in OBSERVATIONS}]
    monkeypatch.setattr(chexbert, "load_chexbert", lambda folder, device: lambda texts: nothing * len(texts))


PAIRS = [("FINDINGS: A b c.", "FINDINGS: A b d."), ("x", "  "), ("FINDINGS: No \ufffd.", "Edema."), ("", "y")]


def score(tmp_path, monkeypatch, capsys, *flags):
    lines = [json.dumps({"truth": truth, "generated": said}) + "\n" for truth, said in PAIRS]
    (tmp_path / "p.jsonl").write_text("".join(lines))
    command(monkeypatch, "report", "--predictions", tmp_path / "p.jsonl", "--out", tmp_path / "out", *flags)
    return json.loads((tmp_path / "out/results.json").read_text()), capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "flags", "reason"),
    [
        ("0.1.18", (), "--protocol unix"),
        ("0.1.18", ("--protocol", "unix"), "not CheXbert"),
        ("0.1.20", ("--protocol", "unix", "--chexbert", "."), "0.1.20"),
        ("0.1.18", ("--protocol", "unix", "--chexbert", "."), ""),
    ],
)
def test_a_heading_claims_the_protocol_only_if_all_of_it_was_followed(
    tmp_path, monkeypatch, capsys, version, flags, reason
):
    theirs(monkeypatch, version)
    if not flags:
        monkeypatch.setattr(report, "radgraph_f1", lambda rows, model: (0.5, 0.5, 0.5))
    results, text = score(tmp_path, monkeypatch, capsys, *flags)
    page = (tmp_path / "out/report.html").read_text()
    for said in (text, page):
        assert ("not the authors" in said) == bool(reason)
    assert reason in results["protocol"] and f"Protocol: {results['protocol']}." in text
    assert results["protocol"].startswith("not the authors' protocol" if reason else "the authors' protocol")


def test_empty_pairs_are_left_out_and_counted(tmp_path, monkeypatch, capsys):
    results, text = score(tmp_path, monkeypatch, capsys, "--protocol", "unix")
    assert (results["reports"], results["empty_pairs"]) == (2, 2) and "2 empty pairs left out" in text
    assert results["text"]["rouge_l"] == list(
        metrics.bootstrap_median(
            metrics.rouge_l(["FINDINGS: A b c.", "FINDINGS: No ?."], ["FINDINGS: A b d.", "Edema."])
        )
    )
    ours, _ = score(tmp_path, monkeypatch, capsys)
    assert (ours["reports"], ours["empty_pairs"]) == (4, 0)


def test_where_no_row_brings_a_question_one_of_ten_is_asked_that_names_its_sections(
    micro_folder, tmp_path, monkeypatch
):
    asked = []

    def read(checkpoint, images, question, max_new_tokens, batch):
        asked.extend([question] * len(images))
        assert max_new_tokens == 499
        return ["Something."] * len(images)

    monkeypatch.setattr(sample, "read", read)
    flags = ("--weights", micro_folder, "--data", "phantom:40", "--out", tmp_path / "out", "--cache", tmp_path)
    command(monkeypatch, "report", "--protocol", "unix", *flags)
    known = [question_for("FINDINGS: x IMPRESSION: y", number) for number in range(10)]
    assert set(asked) <= set(known) and len(set(asked)) > 5
    results = json.loads((tmp_path / "out/results.json").read_text())
    for reason in ("squares films otherwise", "the films are rendered"):
        assert reason in results["protocol"]


def test_the_questions_are_those_of_their_file():
    """20 in all: ten wordings, for both sections or for the findings alone."""
    asked = {question_for(report, number) for report in ("FINDINGS: IMPRESSION:", "FINDINGS:") for number in range(10)}
    assert len(asked) == 20
    assert {question.removeprefix("<image>") for question in QUESTIONS} <= asked
    assert "Review this X-ray and provide a detailed FINDINGS and IMPRESSION." in asked
    assert question_for("IMPRESSION: Normal.", 7) == "Provide the IMPRESSION for this chest X-ray."


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """CheXGenBench's tables of 26 real and 24 generated pictures; stand-ins for RadDino's and BioViL-T's weights."""
    rng = np.random.default_rng(0)
    for name, column, count in (("real", "path", 26), ("fake", "synthetic_filename", 24)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / name / f"{number}.png")
        with open(tmp_path / name / "table.csv", "w", newline="") as file:
            rows = [(f"{number}.png", f"Prompt {min(number, 24)}.") for number in range(count)]
            csv.writer(file).writerows([(column, "annotated_prompt"), *rows])

    def extract(images):
        return images.float().flatten(1)[:, :6]

    radiant = features.FeatureExtractor("RadDino", True, "one", lambda image: image, extract)
    monkeypatch.setattr(features, "load_feature_extractor", lambda folder, device, weights: radiant)

    class Aligner:
        name = "BioViL-T"

        def __call__(self, images, texts):
            return torch.ones(len(images)) / 4

    monkeypatch.setattr(biovil, "load_aligner", lambda folder, device: Aligner())
    return ("--real", tmp_path / "real/table.csv", "--fake", tmp_path / "fake/table.csv", "--split", "all")


def test_pictures_are_scored_whole_and_as_the_mean_of_four_parts(pictures, tmp_path, monkeypatch, capsys):
    """Of each prompt the first image (the 26th repeats the 25th's), the parts in the order of the tables."""
    flags = (*pictures, "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--aligner", ".")
    command(monkeypatch, "image", *flags, "--protocol", "unix")
    results, text = json.loads((tmp_path / "out/results.json").read_text()), capsys.readouterr().out
    sets = [
        np.stack([np.asarray(Image.open(tmp_path / name / f"{i}.png")).ravel()[:6] for i in range(count)]).astype("f4")
        for name, count in (("real", 25), ("fake", 24))
    ]
    parts = list(zip(*(np.array_split(one, 4) for one in sets), strict=True))
    assert [len(a) for a, _ in parts] == [7, 6, 6, 6]
    assert results["table_3"]["fd"] == pytest.approx(metrics.frechet_distance(*sets), rel=1e-5)
    shards = results["shards"]
    assert shards["fd"] == pytest.approx(np.mean([metrics.frechet_distance(*part) for part in parts]), rel=1e-5)
    assert shards["kd"] == pytest.approx(np.mean([metrics.kernel_distance(*part) for part in parts]), rel=1e-4)
    for name in ("precision", "recall", "density", "coverage"):
        expected = np.mean([metrics.prdc_samples(*part, 5)[name].mean() for part in parts])
        assert shards[name] == pytest.approx(expected)
    assert shards["fd"] > results["table_3"]["fd"]  # smaller sets are farther apart
    page = (tmp_path / "out/report.html").read_text()
    for said in (text, page):
        assert "this run, mean of parts" in said and f"{shards['fd']:.2f}"[:-1] in said
        assert "the authors" in said and "not the authors" not in said
        assert "features of RadDino" in said and "alignment by BioViL-T" in said
    assert results["protocol"].startswith("the authors' protocol")


def test_what_pictures_lack_of_the_protocol_stands_in_the_heading(pictures, tmp_path, monkeypatch, capsys):
    flags = (*pictures, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    command(monkeypatch, "image", *flags, "--protocol", "unix")
    assert "alignment by nobody, not BioViL-T" in capsys.readouterr().out
    command(monkeypatch, "image", *flags)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["protocol"].startswith("not the authors' protocol") and "shards" not in results


def test_too_few_pictures_for_four_parts_are_refused(pictures, tmp_path, monkeypatch, capsys):
    flags = (*pictures, "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--n", 20)
    with pytest.raises(UserError, match="20 images; at least 24 are needed"):
        command(monkeypatch, "image", *flags, "--protocol", "unix")


def test_no_choice_of_the_protocol_changes_unnoticed():
    """Against the table that readers see: a row of docs/protocol.md names each, and this value."""
    assert asdict(UNIX) == {
        "name": "unix",
        "squares": (255, "shrink"),  # eval/base/worker.py
        "wordings": True,  # eval/data/understanding/test_data.json
        "own_bos": True,  # modeling/unix/unix.py, prepare_prompts
        "max_new_tokens": 499,  # inference/inferencer.py: 500 with BOS
        "nltk_words": True,  # eval/und_metrics/nlp_metrics.py, and the three below
        "bleu_weights": (1, 0.5, 0.33, 0.25),
        "skip_empty": True,
        "rouge_draws": 500,
        "radgraph": "radgraph",  # eval/calculate_und_metrics.py
        "radgraph_version": "0.1.18",  # requirements.txt
        "solver": "euler",  # inference/config.json, inference/inferencer.py
        "steps": 50,
        "guidance": 2.0,
        "size": 512,
        "shards": 4,  # eval/gen_metrics/scripts/image_quality_metrics_memory_saving.sh
        "aligner": "BioViL-T",  # eval/gen_metrics/metrics/img_text_alignment_scores.py
    }
    table = (ROOT / "docs/protocol.md").read_text()
    for name in asdict(UNIX):
        assert name == "name" or re.search(rf"^\|.*`{name}`.*\|$", table, re.M), name


def test_the_protocol_gives_way_to_flags_that_were_typed():
    flags = ["image", "--real", ".", "--weights", "."]
    args = evaluate.parse_args(flags)
    assert set_drawing_flags(OURS, args) == []
    assert (args.solver, args.steps, args.guidance, args.size) == ("ab2", 20, None, None)
    args = evaluate.parse_args(flags)
    assert set_drawing_flags(UNIX, args) == []
    assert (args.solver, args.steps, args.guidance, args.size) == ("euler", 50, 2.0, 512)
    args = evaluate.parse_args([*flags, "--steps", "20", "--solver", "euler"])  # 20 is our own default, and typed
    assert set_drawing_flags(UNIX, args) == ["--steps 20"] and args.steps == 20


@pytest.mark.parametrize("where", ["tokenizer.json", "tokenizer_config.json", "neither", "not by the config"])
def test_a_tokenizer_that_adds_bos_does_so_under_their_protocol_alone(where, micro, tmp_path):
    """Their inference puts BOS before `tokenizer.encode(prompt)`; their training encodes without special tokens."""
    folder = golden_folder(tmp_path / "unix", "unix_tiny", micro)
    file, config = folder / "tokenizer.json", {}
    if where in ("tokenizer.json", "not by the config"):
        tokenizer = Tokenizer.from_file(str(file))
        bos = ("<|bos|>", tokenizer.token_to_id("<|bos|>"))
        tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[bos])
        tokenizer.save(str(file))
    if where in ("tokenizer_config.json", "not by the config"):
        config = {"add_bos_token": where == "tokenizer_config.json"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(folder)
    plain = checkpoint.encode("Small left effusion.")
    checkpoint.own_bos = UNIX.own_bos
    first = [checkpoint.tokenizer.token_to_id("<|bos|>")] if where.startswith("tokenizer") else []
    assert checkpoint.encode("Small left effusion.") == [*first, *plain]
    assert sample.prompt_ids(checkpoint, "Small left effusion.") == [*first, *plain]
    assert not OURS.own_bos
