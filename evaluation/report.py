"""evaluate.py report: a model's reports, or somebody else's, against the true ones (Table 2).

The labels of both reports are compared (CheXbert F1), then their words (BLEU, ROUGE-L), and RadGraph F1 where its
package is installed. Without CheXbert's weights the rule-based labeler judges.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import arguments
from common.errors import UserError
from common.files import write_text
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from evaluation import baselines, metrics, page
from evaluation.protocol import NOT_THEIRS, OURS, UNIX, Protocol, heading, reading_terms, report_sets
from evaluation.results import (
    OURS_ONLY,
    Scored,
    footer,
    mean_and_interval,
    paper_table,
    scored,
    thumbnail,
    together,
    write_results,
)
from evaluation.words import word_tokenizer
from sample import DISCLAIMER

if TYPE_CHECKING:
    from archives.records import Records
    from common.distributed import Team
    from phantoms.dataset import Phantoms
    from weights import Checkpoint

LabelReports = Callable[[Sequence[str]], np.ndarray]  # N texts -> (N, 14): 1, 0, -1 and nan

PREDICTION_COLUMNS = ("Ground Truth", "Report Impression")  # of the CSV that UniX's own evaluation writes
CSV_NAME, CSV_COLUMNS = "understanding_results.csv", ("Image Path", "Report Impression", "Ground Truth")
MODES = ("negative", "positive")  # what "uncertain" counts as
TABLE2 = ("micro14", "micro5", "macro14", "macro5")
MEASURES = {"bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"}


def report_command(args: argparse.Namespace) -> None:
    """`evaluate.py report`: write reports or read them, score, and write results.json and report.html."""
    if args.literature_bleu and args.section == "impression":
        raise UserError("--literature-bleu: this set's literature counts the findings; leave --section impression out")
    if args.consensus and args.section == "impression":
        raise UserError("--consensus: compares whole reports; leave --section impression out")
    for flag in ("consensus", "question"):
        if args.predictions and getattr(args, flag):
            raise UserError(f"--{flag}: is for a model that writes; leave it out, or --predictions")
    own_folder(args.out)
    protocol = UNIX if args.protocol == UNIX.name else OURS
    tokenize = word_tokenizer() if protocol.nltk_words else metrics.tokenize  # what is missing is said at once
    started, source, weights = time.perf_counter(), None, None
    sets, lacks = ["reports as they were given, however they were asked for"], []
    if args.predictions:
        rows = read_predictions(args.predictions)[: args.n]
    else:
        rows, source, weights, (sets, lacks) = together(args, lambda args, team: write_reports(args, team, protocol))
        if rows is None:  # the main process scores
            return
    generated_in = time.perf_counter() - started
    written, files = rows, "results.json, report.html, predictions.jsonl"
    rows = without_empty(rows) if protocol.skip_empty else rows
    if len(rows) < 2:
        raise UserError(f"{args.predictions or args.data}: {len(rows)} report; two are needed for a score")
    judge, label = report_judge(args)
    texts = [row["truth"] for row in rows], [row["generated"] for row in rows]
    results = score_reports(*texts, judge, label, tokenize, protocol)
    results["radgraph_f1"] = radgraph_f1(rows, protocol.radgraph)
    skipped, radgraph = len(written) - len(rows), results["radgraph_f1"]
    sets, lacks = (
        [*sets, *report_sets(protocol, skipped, bool(radgraph))],
        lacks + judging_lacks(protocol, args, radgraph),
    )
    results["beside"] = baselines.compare(args, rows, source, label)
    about = {
        "data": str(args.predictions or args.data),
        "weights": weights,
        "reports": len(rows),
        "protocol": heading(protocol, sets, lacks),
        "empty_pairs": skipped,
        "seconds": {"writing": generated_in, "all": time.perf_counter() - started},
    }
    write_results(args.out, {**about, **results})
    write_text(args.out / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in written))
    if protocol is not OURS:
        write_text(args.out / CSV_NAME, predictions_csv(written))
        files += f", {CSV_NAME}"
    write_text(args.out / "report.html", report_page(rows, results, source, about))
    print(report_text(results, about), baselines.comparison_text(results["beside"]), DISCLAIMER, sep="\n\n")
    print(f"\n{args.out}: {files}")


def read_predictions(path: Path) -> list[dict]:
    """JSON lines with `truth` and `generated`, or a CSV with UniX's columns. Raises UserError naming row and column."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".csv":
                table = csv.DictReader(file)
                missing = [column for column in PREDICTION_COLUMNS if column not in (table.fieldnames or ())]
                if missing:
                    raise UserError(f"{path}: no column {missing[0]!r}; a CSV needs {' and '.join(PREDICTION_COLUMNS)}")
                truth, generated = PREDICTION_COLUMNS
                rows = [
                    {"truth": row[truth], "generated": row[generated], "image": row.get("Image Path") or ""}
                    for row in table
                ]
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--predictions {path}: cannot be read ({reason}); give JSON lines or a CSV") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("truth", "generated")):
            raise UserError(f"--predictions {path}: row {number} has no texts `truth` and `generated`")
        row.setdefault("index", number - 1)
    return rows


def predictions_csv(rows: Sequence[dict]) -> str:
    """The table that UniX's own evaluation writes, and `--predictions` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_COLUMNS)
    table.writerows((row.get("image", ""), row["generated"], row["truth"]) for row in rows)
    return text.getvalue()


def without_empty(rows: Sequence[dict]) -> list[dict]:
    """The pairs that UniX's evaluation scores: stripped, both of them not empty, with "?" for a broken character."""
    texts = {name: [row[name].replace("\ufffd", "?").strip() for row in rows] for name in ("truth", "generated")}
    pairs = zip(rows, texts["truth"], texts["generated"], strict=True)
    return [row | {"truth": truth, "generated": said} for row, truth, said in pairs if truth and said]


def write_reports(
    args: argparse.Namespace, team: Team, protocol: Protocol = OURS
) -> tuple[list[dict] | None, Records | Phantoms | None, str | None, tuple[list[str], list[str]]]:
    """(the model's report of every image, their source, whose they are, what is as the protocol has it and what not).

    Each process writes its share; (None, None, None, ([], [])) on all but the main one.

    Every report is a line in OUT/reports.RANK.jsonl as soon as it is written, so a run that was cut off goes on with
    --resume, on any number of processes.
    """
    import torch
    from PIL import Image
    from tqdm import tqdm

    import data
    import sample
    from evaluation.consensus import read_consensus
    from judges.features import weights_hash
    from reports import questions

    checkpoint = sample.load_model(args.weights, team.device, getattr(torch, args.dtype))
    source, config = report_source(args, checkpoint), checkpoint.model.config
    count = min(len(source), args.n or len(source))
    version = weights_hash(args.weights)
    settings = {name: str(getattr(args, name)) for name in ("data", "split", "require", "section", "question", "dtype")}
    squares = f"{config.vit.padding} {config.vit.scaling}"  # of the config: the weights' hash does not cover it
    settings |= {"weights": version, "squares": squares, "protocol": protocol.name}
    if args.consensus:
        settings["consensus"] = f"{args.consensus} {args.literature_bleu}"
    known = read_shards(args.out, settings) if args.resume else {}
    team.sum([0.0])  # all have read, now one may delete
    if team.is_main and not args.resume:
        for shard in args.out.glob("reports.*.jsonl"):
            shard.unlink()
    team.sum([0.0])
    mine = [index for index in range(team.rank, count, team.size) if index not in known]
    section = ("report", "impression").index(args.section)
    words = baselines.literature_words if args.literature_bleu else metrics.tokenize
    default = questions.default_question(config.wording, section == 1)
    asked: dict[str, list[int]] = {}  # a batch has one question
    for index in mine:
        question = args.question or source.extra(index).get("question")
        if not question and protocol.wordings and section == 0:
            wording = data.position_rng(0, 0, index).integers(len(questions.QUESTIONS))
            question = questions.question_for(source.text(index)[0], int(wording))
        asked.setdefault(question or default, []).append(index)
    size = args.batch or 32
    films = max(1, size // args.consensus) if args.consensus else size  # at a time
    batches = [(q, rows[i : i + films]) for q, rows in asked.items() for i in range(0, len(rows), films)]
    with open(args.out / f"reports.{team.rank}.jsonl", "a") as file:
        file.write("\n" + json.dumps({"settings": settings}) + "\n")
        with tqdm(total=len(mine), unit="report", desc="reading", disable=not team.is_main) as bar:
            for question, batch in batches:
                images = [Image.fromarray(source.image(index)) for index in batch]
                if args.consensus:
                    seeds = [range(index * args.consensus, (index + 1) * args.consensus) for index in batch]
                    texts = read_consensus(checkpoint, images, seeds, question, words, protocol.max_new_tokens)
                else:
                    texts = sample.read(checkpoint, images, question, protocol.max_new_tokens, batch=len(batch))
                    # Prose, where there is any.
                    texts = [questions.split_observations(text)[1] or text for text in texts]
                for index, text in zip(batch, texts, strict=True):
                    row = {"index": index, "image": file_of(source, index), "truth": truth_of(source, index, section)}
                    file.write(json.dumps(row | {"generated": text}) + "\n")
                file.flush()
                bar.update(len(batch))
    team.sum([0.0])
    if not team.is_main:
        return None, None, None, ([], [])
    rows = read_shards(args.out, settings)
    terms = reading_terms(protocol, args, config.vit)
    return [rows[index] for index in range(count)], source, f"{args.weights} ({version})", terms


def report_source(args: argparse.Namespace, checkpoint: Checkpoint) -> Records | Phantoms:
    """What to read: a data set, or phantoms that no model was trained on."""
    from archives.opening import open_source
    from phantoms.dataset import named

    if not arguments.names_phantoms(args.data):
        source = open_source(args.data, split=args.split, cache=args.cache, require=args.require)
        if not args.protocol:  # their JPEGs are decoded in full
            source.size = checkpoint.model.config.vit.image_size
        return source
    return named(args.data, 200, 256, seed=1, cache=args.cache)


def truth_of(source: Records | Phantoms, index: int, section: int) -> str:
    """The true report (section 0) or impression (1); the reference of UniX's own files word by word."""
    reference = source.extra(index).get("reference") if section == 0 else None
    return reference or source.text(index)[section]


def file_of(source: Records | Phantoms, index: int) -> str:
    records = getattr(source, "records", None)
    return str(source.root / records[index].image) if records else ""


def read_shards(out: Path, settings: dict) -> dict[int, dict]:
    """Index -> row, of all reports written with just these settings. A line that a crash cut short does not count."""
    rows = {}
    for shard in sorted(out.glob("reports.*.jsonl")):
        same = False
        for line in shard.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if "settings" in row:
                same = row["settings"] == settings
                if not same:
                    print(f"--resume: {shard} has reports of other settings or weights; left out", file=sys.stderr)
            elif same:
                rows[row["index"]] = row
    return rows


def report_judge(args: argparse.Namespace) -> tuple[str, LabelReports]:
    """(name, texts -> labels (N, 14): 1, 0, -1 and nan): CheXbert if its folder is given, else our rules."""
    from reports.labeler import label_reports

    if args.chexbert is None:
        return f"rule-based labeler (reports/labeler.py), not CheXbert: {OURS_ONLY}", label_reports
    from judges.chexbert import load_chexbert

    chexbert = load_chexbert(args.chexbert, args.device)

    def label(texts: Sequence[str]) -> np.ndarray:
        texts = [text[:512] for text in texts]  # as UniX's own evaluation, which made the numbers of Table 2
        return np.array([[label.value for label in labels.values()] for labels in chexbert(texts)], dtype=np.float32)

    return "CheXbert", label


def score_reports(
    truths: Sequence[str],
    written: Sequence[str],
    judge: str,
    label: LabelReports,
    tokenize: Callable[[str], Sequence[str]] = metrics.tokenize,
    protocol: Protocol = OURS,
) -> dict:
    """Table 2 and the texts' likeness, every number with its 95 % interval (1,000 bootstrap draws of the reports)."""
    truth, claims = label(truths), label(written)
    chexbert = metrics.chexbert_scores(truth, claims)
    table, per_class = {}, {name: {} for name in OBSERVATIONS}
    for mode in MODES:
        scores = chexbert[mode]
        labels = metrics.f1_counts(metrics.positives(truth, mode), metrics.positives(claims, mode))
        low, high = metrics.bootstrap_sums(table2_row, labels)
        table[mode] = {name: scored(getattr(scores, name), low[k], high[k]) for k, name in enumerate(TABLE2)}
        for k, name in enumerate(OBSERVATIONS):
            per_class[name][mode] = scored(scores.per_class[k], low[4 + k], high[4 + k])
            per_class[name][f"support_{mode}"] = int(scores.support[k])
    counts = metrics.bleu_counts(list(map(tokenize, truths)), list(map(tokenize, written)))
    bleu = metrics.bleu_from_counts(counts, protocol.bleu_weights)
    each = np.column_stack([bleu, metrics.rouge_l(truths, written)])  # (N, 5)
    low, high = metrics.bootstrap_sums(lambda sums: sums / len(each), each)
    text = {name: scored(each[:, k].mean(), low[k], high[k]) for k, name in enumerate(MEASURES)}
    if protocol.rouge_draws:
        text["rouge_l"] = metrics.bootstrap_median(each[:, 4], protocol.rouge_draws)
    # Which reports to show: by the labels they got right (`labels`: uncertain is positive), then by their words.
    hits, claimed = labels.sum(axis=2).T
    agreement = np.divide(2 * hits, claimed, out=np.ones(len(hits)), where=claimed > 0)
    order = np.lexsort((each[:, -1], agreement))
    scores = {"judge": judge, "table_2": table, "per_class": per_class, "text": text}
    return scores | {"order": order.tolist(), "agreement": agreement.tolist()}


def table2_row(sums: np.ndarray) -> np.ndarray:
    """Summed counts (..., 2, 14) -> the four columns of one half of Table 2, then each class: (..., 18)."""
    all14, five = metrics.f1_from_counts(sums, 0.0), metrics.f1_from_counts(sums[..., list(metrics.FIVE)], 0.0)
    columns = np.stack([all14.micro, five.micro, all14.macro, five.macro], axis=-1)
    return np.concatenate([columns, all14.per_class], axis=-1)


def radgraph_f1(rows: Sequence[dict], model: str = OURS.radgraph) -> Scored | None:
    """RadGraph F1 (Jain et al. 2021; "partial" reward) by its own package; None where that is absent or fails.

    It fetches its weights the first time: without a network the other scores must not be lost.
    """
    try:
        from radgraph import F1RadGraph

        score = F1RadGraph(reward_level="partial", model_type=model)
        _, each, *_ = score(refs=[row["truth"] for row in rows], hyps=[row["generated"] for row in rows])
    except ModuleNotFoundError as error:
        if error.name != "radgraph":  # it is there, and something that it imports is not
            print(f"RadGraph F1 is left out: radgraph needs {error.name}; pip install {error.name}", file=sys.stderr)
        return None
    except Exception as error:  # whatever the package, its download or its model raise
        print(f"RadGraph F1 is left out: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return mean_and_interval(np.array(each))


def judging_lacks(protocol: Protocol, args: argparse.Namespace, radgraph: Scored | None) -> list[str]:
    """What keeps the scores of reports from being computed as theirs were."""
    lacks = [] if args.chexbert else ["the labels are our rule-based labeler's, not CheXbert's"]
    if radgraph is None:
        return [*lacks, f"no RadGraph F1 (pip install radgraph=={protocol.radgraph_version})"]
    try:
        installed = version("radgraph")
    except PackageNotFoundError:
        installed = "unknown"
    if installed != protocol.radgraph_version:
        lacks.append(f"RadGraph's version is {installed}, not {protocol.radgraph_version}")
    return lacks


def report_text(results: dict, about: dict) -> str:
    """For the terminal: our row above the paper's."""
    paper = page.paper_table(2)
    ours = [100 * results["table_2"][mode][name][0] for mode in MODES for name in TABLE2]
    lines = [
        f"{about['reports']} reports of {about['data']}. Judge: {results['judge']}.",
        f"Protocol: {about['protocol']}.",
        f"\n{'F1 in percent':<26}" + f"{'uncertain is negative':^36}{'uncertain is positive':^36}",
        " " * 26 + "".join(f"{column['name'].replace(' F1', ''):>9}" for column in paper["columns"]),
        f"{'this run':<26}" + "".join(f"{value:9.1f}" for value in ours),
    ]
    for entry in paper["rows"]:
        cells = "".join(f"{'-' if value is None else format(value, '.1f'):>9}" for value in entry["values"])
        lines.append(f"{'paper: ' + entry['model']:<26}{cells}")
    lines.append(f"\n{'':<28}{'true':>6}{'F1':>8}{'95 % interval':>18}   (uncertain is positive)")
    for name, scores in results["per_class"].items():
        value, low, high = scores["positive"]
        lines.append(f"{name:<28}{scores['support_positive']:>6}{value:8.3f}{low:11.3f}-{high:.3f}")
    words = [f"{MEASURES[name]} {value[0]:.3f}" for name, value in results["text"].items() if value]
    radgraph = results["radgraph_f1"]
    words.append("RadGraph F1 " + ("- (pip install radgraph)" if radgraph is None else f"{radgraph[0]:.3f}"))
    return "\n".join([*lines, "", ", ".join(words)])


def report_page(rows: Sequence[dict], results: dict, source: Records | Phantoms | None, about: dict) -> str:
    ours = [tuple(100 * part for part in results["table_2"][mode][name]) for mode in MODES for name in TABLE2]
    bars = [
        (name, *scores[mode], f"{scores[f'support_{mode}']} true")
        for name, scores in results["per_class"].items()
        for mode in MODES
    ]
    likeness = [[MEASURES[name], value] for name, value in results["text"].items()]
    likeness.append(["RadGraph F1", results["radgraph_f1"]])
    judged = f"{about['reports']} reports of {about['data']}. Judge: {results['judge']}."
    theirs = "the authors' protocol" if about["protocol"].startswith("the") else NOT_THEIRS
    blocks = [
        page.text([judged, f"Protocol: {about['protocol']}.", DISCLAIMER]),
        page.heading("Findings: F1 in percent (Table 2)"),
        paper_table(
            2,
            ours,
            f"judge: {results['judge']}; {theirs}",
            note="Paper: CheXbert on the test split of MIMIC-CXR. Small numbers: 95 % intervals by bootstrap over the"
            " reports.",
        ),
        page.heading("Each observation"),
        page.bars(bars, "F1, by what “uncertain” counts as", series=[f"uncertain is {mode}" for mode in MODES]),
        page.heading("Words"),
        page.table(["measure", "value"], likeness, note="BLEU is the mean over reports (smoothed)."),
    ]
    blocks += baselines.comparison_blocks(results["beside"])
    for title, chosen in (("Worst", results["order"][:8]), ("Best", results["order"][::-1][:8])):
        blocks.append(page.heading(f"{title} reports, by the findings they got right"))
        blocks.append(report_cases(rows, chosen, results, source))
    return page.page("Reading chest X-rays", blocks, footer=footer(about))


def report_cases(rows: Sequence[dict], chosen: Sequence[int], results: dict, source: Records | Phantoms | None) -> str:
    """Pictures with both reports, or only the reports where there are no pictures."""
    if source is None:
        cells = [[rows[i]["truth"], rows[i]["generated"], results["agreement"][i]] for i in chosen]
        return page.table(["truth", "written", "F1 of its findings"], cells)
    said = "F1 {:.2f}. Written: {} Truth: {}"
    items = [
        (
            thumbnail(source.image(rows[i]["index"])),
            said.format(results["agreement"][i], rows[i]["generated"], rows[i]["truth"]),
        )
        for i in chosen
    ]
    return page.pictures(items)
