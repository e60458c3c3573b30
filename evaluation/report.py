"""evaluate.py report: a model's reports, or somebody else's, against the true ones (Table 2).

The labels of both reports are compared (CheXbert F1), then their words (BLEU, ROUGE-L), and RadGraph F1 where its
package is installed. Without CheXbert's weights the rule-based labeler judges.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data
import sample
from archives.opening import open_source
from archives.records import Problems, Records
from archives.tables import is_empty, read_json_rows, read_table
from common import arguments
from common.devices import dtype_name
from common.distributed import Team, joined_team
from common.errors import UserError
from common.files import write_text
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from evaluation import baselines, metrics, page
from evaluation.generated import write_reports
from evaluation.protocol import OURS, Protocol, heading, named, reading_lacks, whose
from evaluation.results import OURS_ONLY, beside_paper, publish
from evaluation.tables import Table
from evaluation.words import word_tokenizer
from judges import chexbert
from judges.features import weights_hash
from phantoms.dataset import Phantoms
from phantoms.dataset import named as named_phantoms
from reports import questions
from reports.labeler import label_reports
from studies import consensus
from weights import Checkpoint

WRITTEN, TRUTH = "Report Impression", "Ground Truth"  # columns of the CSV that UniX's own evaluation writes
SHOWN = 16  # cases on the page


def report_command(args: argparse.Namespace) -> None:
    """`evaluate.py report`: write reports or read them, score, and write results.json and report.html."""
    own_folder(args.out)
    protocol = named(args.protocol)
    tokenize = word_tokenizer() if protocol.nltk_words else metrics.tokenize  # what is missing is said at once
    judge, label = report_judge(args)
    lacks, source, weights = [], None, None
    if args.predictions:
        made = read_predictions(args.predictions)[: args.n]
    else:
        with joined_team(torch.device(args.device)) as team:
            made, source, weights, lacks = read_films(args, team, protocol)
        if made is None:  # the main process scores
            return
    rows = without_empty(made) if protocol.skip_empty else made
    if len(rows) < 2:
        raise UserError(f"{args.predictions or args.data}: {len(rows)} report; two are needed for a score")
    texts = [row["truth"] for row in rows], [row["generated"] for row in rows]
    radgraph = radgraph_f1(rows, protocol.radgraph)
    if protocol is not OURS:
        lacks += judging_lacks(protocol, args, radgraph)
    results = {
        "data": str(args.predictions or args.data),
        "weights": weights,
        "reports": len(rows),
        "protocol": heading(protocol, lacks),
        "empty_pairs": len(made) - len(rows),
        "judge": judge,
        **score_reports(*texts, label, tokenize, protocol),
        "radgraph_f1": radgraph,
        "beside": baselines.compare(args, rows, source, label),
    }
    if not args.predictions:  # whoever gives them has them: they may be this very file
        write_text(args.out / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in made))
    skipped = f" ({results['empty_pairs']} empty pairs left out)" if results["empty_pairs"] else ""
    summary = f"{len(rows)} reports of {results['data']}{skipped}. Judge: {judge}."
    publish(args.out, "Reading chest X-rays", summary, report_blocks(rows, results, source), results, weights)


def read_predictions(path: Path) -> list[dict]:
    """JSON lines with `truth` and `generated`, or a CSV with UniX's columns, read as data sets are.

    Raises UserError naming row and column.
    """
    problems, rows, as_csv = Problems(), [], path.name.lower().endswith((".csv", ".csv.gz"))
    found = read_table(path, (TRUTH, WRITTEN), problems) if as_csv else read_json_rows(path, problems)
    for number, (_, row) in enumerate(found, 1):
        if as_csv:
            row = {"truth": row[TRUTH], "generated": row[WRITTEN]}
        texts = {name: "" if is_empty(row.get(name)) else row[name] for name in ("truth", "generated")}
        if not texts.keys() <= row.keys() or not all(isinstance(text, str) for text in texts.values()):
            raise UserError(f"--predictions {path}: row {number} has no texts `truth` and `generated`")
        rows.append({"index": number - 1, **row, **texts})
    if problems.count("bad"):
        raise UserError(f"--predictions {path}: cannot be read ({'; '.join(problems.lines())}); mend these rows")
    return rows


def without_empty(rows: Sequence[dict]) -> list[dict]:
    """The pairs that UniX's evaluation scores: stripped, both of them not empty, with "?" for a broken character."""
    texts = {name: [row[name].replace("\ufffd", "?").strip() for row in rows] for name in ("truth", "generated")}
    pairs = zip(rows, texts["truth"], texts["generated"], strict=True)
    return [row | {"truth": truth, "generated": said} for row, truth, said in pairs if truth and said]


def read_films(
    args: argparse.Namespace, team: Team, protocol: Protocol
) -> tuple[list[dict] | None, Records | Phantoms, str, list[str]]:
    """(the model's report of every film, their source, whose they are, what is not as the protocol has it).

    Each process writes its share; the first is None on all but the main one.
    """
    args.dtype = dtype_name(dtype := team.agreed(getattr(torch, args.dtype)))
    checkpoint = sample.load_model(args.weights, team.device, dtype, args.adapter)
    checkpoint.own_bos = protocol.own_bos
    config = checkpoint.model.config
    if arguments.names_phantoms(args.data):  # that no model was trained on
        source = named_phantoms(args.data, 200, 256, seed=1, cache=args.cache)
    else:
        source = open_source(args.data, split=args.split, require=args.require)
        source.size = None if args.protocol else config.vit.image_size  # their JPEGs are decoded in full
    weights, batch = weights_hash(args.weights, args.adapter), args.batch or 32
    settings = {name: str(getattr(args, name)) for name in ("data", "split", "require", "dtype")}
    squares = f"{config.vit.padding} {config.vit.scaling}"  # of the config: the weights' hash does not cover it
    settings |= {"weights": weights, "squares": squares, "protocol": protocol.name, "batch": batch}
    if args.consensus:
        settings["consensus"] = f"{args.consensus} {args.literature_bleu}"
    asked = {}  # a batch has one question
    for index in range(min(len(source), args.n or len(source))):
        asked.setdefault(question_of(protocol, checkpoint, source, index), []).append(index)
    films = max(1, batch // (args.consensus or 1))
    batches = {tuple(rows[i : i + films]): q for q, rows in asked.items() for i in range(0, len(rows), films)}
    words = baselines.literature_words if args.literature_bleu else metrics.tokenize

    def write(rows: Sequence[int]) -> list[dict]:
        images, question = [Image.fromarray(source.image(index)) for index in rows], batches[tuple(rows)]
        if args.consensus:
            seeds = [range(index * args.consensus, (index + 1) * args.consensus) for index in rows]
            texts = consensus.read_consensus(checkpoint, images, seeds, question, words, protocol.max_new_tokens)
        else:
            texts = sample.read(checkpoint, images, question, protocol.max_new_tokens, batch=len(rows))
            texts = list(map(questions.without_observations, texts))  # prose, where there is any
        truths = [source.extra(k).get("reference") or source.text(k)[0] for k in rows]  # UniX's own word by word
        made = zip(rows, truths, texts, strict=True)
        return [{"index": k, "image": file_of(source, k), "truth": true, "generated": said} for k, true, said in made]

    rows = write_reports(args.out, settings, list(batches), write, team, args.resume)
    return rows, source, f"{args.weights} ({weights})", reading_lacks(protocol, args, config.vit)


def question_of(protocol: Protocol, checkpoint: Checkpoint, source: Records | Phantoms, index: int) -> str:
    """What to ask about a film: what its row asks, else one of the protocol's or the model's own."""
    if question := source.extra(index).get("question"):
        sample.prompt_ids(checkpoint, question, f"{file_of(source, index)}: its question")  # refused, if it is too long
        return question
    if protocol.wordings:
        wording = data.position_rng(0, 0, index).integers(len(questions.QUESTIONS))
        return questions.question_for(source.text(index)[0], int(wording))
    return questions.default_question(checkpoint.model.config.wording)


def file_of(source: Records | Phantoms, index: int) -> str:
    records = getattr(source, "records", None)
    return str(source.root / records[index].image) if records else ""


def report_judge(args: argparse.Namespace) -> tuple[str, baselines.LabelReports]:
    """(name, texts -> labels (N, 14): 1, 0, -1 and nan): CheXbert if its folder is given, else our rules."""
    if args.chexbert is None:
        return f"rule-based labeler (reports/labeler.py), not CheXbert: {OURS_ONLY}", label_reports
    labeler, known = chexbert.load_chexbert(args.chexbert, args.device), {}

    def label(texts: Sequence[str]) -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if text not in known]:  # it is slow, and most reports recur
            found = labeler([text[:512] for text in new])  # as UniX's own evaluation, which made the numbers of Table 2
            known.update((text, [each.value for each in one.values()]) for text, one in zip(new, found, strict=True))
        return np.array([known[text] for text in texts], dtype=np.float32)

    return "CheXbert", label


def score_reports(
    truths: Sequence[str],
    written: Sequence[str],
    label: baselines.LabelReports,
    tokenize: Callable[[str], Sequence[str]] = metrics.tokenize,
    protocol: Protocol = OURS,
) -> dict:
    """Table 2 and the texts' likeness, every number with its 95 % interval (1,000 bootstrap draws of the reports)."""
    truth, claims = label(truths), label(written)
    table, per_class = {}, {name: {} for name in OBSERVATIONS}
    for mode in metrics.UNCERTAIN:
        columns, classes, support = metrics.chexbert_scores(truth, claims, mode)
        table[mode] = columns
        for k, name in enumerate(OBSERVATIONS):
            per_class[name][mode], per_class[name][f"support_{mode}"] = classes[k], support[k]
    counts = metrics.bleu_counts(list(map(tokenize, truths)), list(map(tokenize, written)))
    bleu = metrics.bleu_from_counts(counts, protocol.bleu_weights)
    each = np.column_stack([bleu, metrics.rouge_l(truths, written)])  # (N, 5)
    text = dict(zip(baselines.WORDS, metrics.mean_scores(each), strict=True))
    if protocol.rouge_draws:
        text["rouge_l"] = metrics.bootstrap_median(each[:, 4], protocol.rouge_draws)
    return {"table_2": table, "per_class": per_class, "text": text}


def radgraph_f1(rows: Sequence[dict], model: str = OURS.radgraph) -> metrics.Scored | None:
    """RadGraph F1 (Jain et al. 2021; "partial" reward) by its own package; None where that is absent or fails.

    It fetches its weights the first time: without a network the other scores must not be lost.
    """
    try:
        from radgraph import F1RadGraph

        score = F1RadGraph(reward_level="partial", model_type=model)
        _, each, *_ = score(refs=[row["truth"] for row in rows], hyps=[row["generated"] for row in rows])
    except Exception as error:  # whatever the package, its download or its model raise
        if getattr(error, "name", None) != "radgraph":  # the package itself may be absent; not what it imports
            print(f"RadGraph F1 is left out: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return metrics.mean_scores(np.array(each))[0]


def judging_lacks(protocol: Protocol, args: argparse.Namespace, radgraph: metrics.Scored | None) -> list[str]:
    """What keeps the scores of reports from being computed as theirs were."""
    lacks = [] if args.chexbert else ["the labels are our rule-based labeler's, not CheXbert's"]
    if radgraph is None:
        lacks.append(f"no RadGraph F1 (pip install radgraph=={protocol.radgraph_version})")
    elif (installed := version("radgraph")) != protocol.radgraph_version:
        lacks.append(f"RadGraph's version is {installed}, not {protocol.radgraph_version}")
    return lacks


def report_blocks(rows: Sequence[dict], results: dict, source: Records | Phantoms | None) -> list[Table | str]:
    """What is printed, and shown on the page."""
    modes = metrics.UNCERTAIN
    ours = [tuple(100 * part for part in value) for mode in modes for value in results["table_2"][mode].values()]
    rows_of_classes = [
        [name, *(row[key] for mode in modes for key in (f"support_{mode}", mode))]
        for name, row in results["per_class"].items()
    ]
    headers = ["", *(header for mode in modes for header in ("true", f"F1, uncertain is {mode}"))]
    likeness = [[baselines.WORDS[name], value] for name, value in results["text"].items()]
    likeness.append(["RadGraph F1", results["radgraph_f1"]])
    note = "BLEU is the mean over reports (smoothed)."
    note += " RadGraph F1 needs pip install radgraph." if results["radgraph_f1"] is None else ""
    judged = f"judge: {results['judge']}; {whose(results['protocol'])}"
    theirs = "Paper: CheXbert on the test split of MIMIC-CXR. Intervals, on the page: 95 %, by bootstrap over reports."
    blocks = [
        beside_paper(2, "Findings: F1 in percent (Table 2)", {"this run": ours}, judged, theirs),
        Table(headers, rows_of_classes, "Each observation", intervals=True),
        Table(["measure", "value"], likeness, "Words", note, intervals=True),
        baselines.comparison(results["beside"]),
    ]
    if source is not None:
        said = "Written: {generated} Truth: {truth}"
        films = [(source.image(row["index"]), said.format(**row)) for row in rows[:SHOWN]]
        blocks += [page.heading("The first of them"), page.pictures(films)]
    return blocks
