"""evaluate.py image: generated pictures against real ones, as sets of features (Tables 3 and 4).

Fréchet and kernel distance, precision, recall, density and coverage in RadDino's features, as CheXGenBench computes
them; BioViL's agreement of picture and prompt; the Fréchet distance of every observation; and, with --train, whether
pictures have been memorised. Without RadDino's weights the tiny model's ViT steps in.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import sample
from archives.chexgenbench import write_generated
from common.distributed import Team
from common.errors import UserError
from common.files import SHIPPED
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from evaluation import metrics, page
from evaluation.generated import draw_pictures
from evaluation.protocol import OURS, Protocol, heading, image_sets, named, set_drawing_flags, whose
from evaluation.results import OURS_ONLY, Scored, beside_paper, mean_and_interval, paper, publish, thumbnail, together
from evaluation.tables import Cell, Paragraph, Table, value_of
from judges import biovil
from judges import features as judges
from judges.features import Images, open_images, weights_hash
from reports.labeler import label_reports
from studies.shown import score_shown

NEIGHBOURS = 5  # k of precision, recall, density and coverage, as CheXGenBench has it
TABLE3 = ("fd", "kd", "alignment", "precision", "recall", "density", "coverage")


def image_command(args: argparse.Namespace) -> None:
    """`evaluate.py image`: draw if asked to, score, and write results.json and report.html."""
    own_folder(args.out)
    if (args.fake is None) == (args.weights is None):
        raise UserError("give either --fake, pictures to score, or --weights, a model to draw them first")
    protocol = named(args.protocol)
    lacks = set_drawing_flags(protocol, args) if args.weights else []
    real = one_a_prompt(open_images(args.real, args.split, args.cache))
    if args.n:
        real = real.only(range(min(args.n, len(real))))
    weights = None
    if args.weights:
        drawn, weights = together(args, lambda args, team: draw_prompts(args, team, real))
        if drawn is None:  # the main process scores
            return
        fake = open_images(drawn)
    else:
        fake = open_images(args.fake, "all", args.cache)
    of_text = {} if real.labels is None else dict(zip(real.texts, real.labels, strict=True))
    if all(text and text in of_text for text in fake.texts):
        # As CheXGenBench: what a picture should show is what the real image with that prompt shows.
        fake.labels = np.array([of_text[text] for text in fake.texts])
    least = (NEIGHBOURS + 1) * protocol.shards
    for flag, images in (("--real", real), ("--fake", fake)):
        if len(images) < least:
            raise UserError(f"{flag} {images.name}: {len(images)} images; at least {least} are needed")
    extractor = judges.load_feature_extractor(args.raddino, args.device, args.vit or SHIPPED)

    def features(images: Images) -> np.ndarray:
        return judges.features(images, extractor, args.cache, args.batch or 32, progress=True)

    took = time.perf_counter()
    sets = [features(real), features(fake)]
    results = {"extractor": extractor.name, "comparable": extractor.comparable}
    results |= {"table_3": table_3(*sets), "per_class": per_class(*sets, real, fake)}
    if protocol.shards > 1:
        results["shards"] = score_shards(*sets, protocol.shards)
    results["alignment"], pairs, results["aligner"] = alignment(args, fake)
    lacks += scoring_lacks(protocol, real, results)
    train, closest = None, None
    if args.train:
        train = open_images(args.train, "train", args.cache)
        of_train = features(train)
        closest = memorisation(*sets, of_train)
        results["memorisation"] = {k: v for k, v in closest.items() if isinstance(v, float)}
        results["floor"] = floor_of(sets[0], of_train, len(fake))
        results["shown"] = shown_by_prompts(sets, of_train, real, fake, train)
    about = {
        "real": f"{real.name} ({len(real)})",
        "fake": f"{fake.name} ({len(fake)})",
        "train": train and f"{train.name} ({len(train)})",
        "weights": weights,
        "protocol": heading(protocol, image_sets(protocol, bool(weights)) if protocol is not OURS else [], lacks),
        "seconds": {"scoring": time.perf_counter() - took},
    }
    results = {**about, **results}
    blocks = image_blocks(results)
    blocks += cases_of_images(real, fake, *sets, pairs)
    if closest:
        blocks += memorisation_blocks(fake, train, closest)
    publish(args.out, "Drawing chest X-rays", blocks, results, "", weights)


def one_a_prompt(real: Images) -> Images:
    """CheXGenBench keeps the first image of every prompt; so do we where every image has a prompt of its set's."""
    if real.kind != "chexgenbench":
        return real
    first = dict(zip(reversed(real.texts), reversed(range(len(real))), strict=True))
    return real.only(sorted(first.values()))


def draw_prompts(args: argparse.Namespace, team: Team, real: Images) -> tuple[Path | None, str | None]:
    """A picture for every different text of `real`, each process its share: OUT/generated, as CheXGenBench reads it."""
    prompts = list(dict.fromkeys(text for text in real.texts if text))
    if not prompts:
        raise UserError(f"--real {args.real}: has no texts to draw from; give a data set with reports, or --fake")
    checkpoint = sample.load_model(args.weights, team.device, getattr(torch, args.dtype))
    version, config = weights_hash(args.weights), checkpoint.model.config
    room = config.context_length - 2
    fitting = [prompt for prompt in prompts if len(checkpoint.encode(prompt)) <= room]
    if team.is_main and len(fitting) < len(prompts):
        print(f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are too long for the model; left out")
    how = {"size": args.size, "steps": args.steps, "solver": args.solver}
    how["guidance"] = sample.chosen_guidance(config, args.guidance)
    settings, folder = {"dtype": args.dtype, "weights": version}, args.out / "generated"
    names = draw_pictures(checkpoint, folder, fitting, args.seed, how, settings, args.batch, team, args.resume)
    if not team.is_main:
        return None, None
    return write_generated(folder, names, fitting), f"{args.weights} ({version})"


def table_3(real: np.ndarray, fake: np.ndarray) -> dict[str, float | Scored]:
    """The measures of Table 3 but for the alignment, of features (N, width) and (M, width)."""
    scores = {"fd": metrics.frechet_distance(real, fake), "kd": metrics.kernel_distance(real, fake)}
    each = metrics.prdc_samples(real, fake, NEIGHBOURS)
    return scores | {name: mean_and_interval(values) for name, values in each.items()}


def per_class(real: np.ndarray, fake: np.ndarray, real_set: Images, fake_set: Images) -> dict[str, dict]:
    """Table 4, of features (N, width) and (M, width): observation -> how many of both sets, and their distance."""
    if real_set.labels is None or fake_set.labels is None:
        return {}
    found = {}
    for k, name in enumerate(OBSERVATIONS):
        a, b = real[real_set.labels[:, k]], fake[fake_set.labels[:, k]]
        distance = metrics.frechet_distance(a, b) if min(len(a), len(b)) >= 2 else None
        found[name] = {"real": len(a), "fake": len(b), "fd": distance}
    return found


def floor_of(real: np.ndarray, train: np.ndarray, count: int) -> dict[str, float | Scored]:
    """Table 3 of real training films in the place of drawings, as many: no model of these films does better.

    real, train: features (N, width), (M, width).
    """
    chosen = np.random.default_rng(0).permutation(len(train))[:count]
    return table_3(real, train[chosen])


def shown_by_prompts(
    sets: list[np.ndarray], of_train: np.ndarray, real: Images, fake: Images, train: Images
) -> dict | None:
    """`score_shown`, where training films and texts have labels; a drawing should show what its prompt says."""
    if train.labels is None or real.labels is None or not all(fake.texts):
        return None
    prompted = label_reports(fake.texts) == 1
    return score_shown((of_train, train.labels), (sets[0], real.labels), (sets[1], prompted))


def score_shards(real: np.ndarray, fake: np.ndarray, shards: int) -> dict[str, float]:
    """Table 3 as CheXGenBench's command averages it over parts of both sets, in their order, to save memory.

    The Fréchet distance grows as the sets shrink, so this is another number than that of the whole.
    """
    parts = zip(np.array_split(real, shards), np.array_split(fake, shards), strict=True)
    rows = [table_3(*part) for part in parts]
    return {name: float(np.mean([value_of(row[name]) for row in rows])) for name in rows[0]}


def scoring_lacks(protocol: Protocol, real: Images, results: dict) -> list[str]:
    """What keeps the scores of pictures from being computed as theirs were."""
    lacks = [] if results["comparable"] else ["the features are not RadDino's"]
    if real.kind != "chexgenbench":
        lacks.append("--real is no table of CheXGenBench")
    if results["aligner"] != protocol.aligner:
        lacks.append(f"alignment by {results['aligner'] or 'nobody'}, not {protocol.aligner}")
    return lacks


def alignment(args: argparse.Namespace, fake: Images) -> tuple[Scored | None, np.ndarray | None, str]:
    """BioViL's or BioViL-T's similarity of every picture and its prompt: (the mean with its interval, each, by whom).

    (None, None, "") without it.
    """
    if args.aligner is None or not all(fake.texts):
        return None, None, ""
    aligner, each, batch = biovil.load_aligner(args.aligner, args.device), [], args.batch or 32
    for start in tqdm(range(0, len(fake), batch), unit="batch", desc="alignment"):
        rows = range(start, min(start + batch, len(fake)))
        each += aligner([Image.fromarray(fake.load(i)) for i in rows], [fake.texts[i] for i in rows]).tolist()
    return mean_and_interval(np.array(each)), np.array(each), aligner.name


def memorisation(real: np.ndarray, fake: np.ndarray, train: np.ndarray) -> dict:
    """Is a drawn picture a training picture again? Distances to the nearest training image, in feature space.

    Real images that were not trained on tell which distance is near: one in a hundred of them is nearer to a training
    image. `share_nearer` is the share of drawn pictures that are nearer than that; without memorisation it is about
    0.01, or less.
    """
    drawn, index = metrics.nearest(fake, train)
    unseen, _ = metrics.nearest(real, train)
    drawn, unseen = drawn.numpy(), unseen.numpy()
    unseen = unseen[unseen > 0]  # at 0 it has been seen: the same picture is in both sets
    if not len(unseen):
        raise UserError("--train: holds every image of --real; give a --real that was not trained on")
    near = float(np.quantile(unseen, 0.01))
    return {
        "share_nearer": float((drawn < near).mean()),
        "near": near,
        "median_drawn": float(np.median(drawn)),
        "median_unseen": float(np.median(unseen)),
        "drawn": drawn,
        "unseen": unseen,
        "index": index.numpy(),
    }


def image_blocks(results: dict) -> list[Table | Paragraph | str]:
    """What is printed, and shown on the page."""
    note = "" if results["comparable"] else f"; {OURS_ONLY}"
    aligned = f"; alignment by {results['aligner']}" if results["aligner"] else ""
    judged = f"features of {results['extractor']}{note}{aligned}"
    ours = {"this run": table_3_cells(results, results["table_3"])}
    if "shards" in results:
        ours["this run, mean of parts"] = table_3_cells(results, results["shards"])
    note = "Paper: RadDino on the test split of MIMIC-CXR. FD and KD also depend on the number of pictures. The"
    note += " others have intervals, on the page: 95 %, by bootstrap over pictures, which would bias FD and KD."
    if "floor" in results:
        ours["real training films"] = [results["floor"].get(name) for name in TABLE3]  # they have no prompts
        note += " Real training films: as many of them in the place of the drawings, the floor of both distances."
    title = "Fidelity and diversity (Table 3)"
    blocks = [
        Paragraph(f"Real: {results['real']}. Generated: {results['fake']}. Judge: {judged}."),
        Paragraph(f"Protocol: {results['protocol']}."),
        Paragraph(sample.DISCLAIMER),
        beside_paper(3, title, ours, f"{judged}; {whose(results['protocol'])}", "resolution", note),
    ]
    if shown := results.get("shown"):
        names = ("drawn", "shuffled", "real")
        rows = [["mean", None, *(shown["mean"][name] for name in names)]]
        rows += [[each, row["positives"], *(row[name] for name in names)] for each, row in shown["each"].items()]
        note = "Area under the ROC curve of a linear judge trained on the training films: drawings against their"
        note += " prompts, against exchanged prompts (0.5), and unseen real films (the ceiling)."
        blocks.append(Table(["", "prompts", *names], rows, "Do drawings show what was asked for?", note, ours=[0]))
    return blocks + table_4_blocks(results["per_class"], judged) * bool(results["per_class"])


def table_3_cells(results: dict, scores: dict) -> list[Cell]:
    """In the order of the paper's columns; the alignment is that of the whole, as theirs is."""
    return [{**scores, "alignment": results["alignment"]}[name] for name in TABLE3]


def table_4_blocks(per_class: dict[str, dict], judged: str) -> list[Table | str]:
    """Table 4 on its side: a row for each observation, a column for each model."""
    theirs = paper(4)
    place = {column["name"]: k for k, column in enumerate(theirs["columns"])}
    rows = [
        [name, row["real"], row["fake"], row["fd"], *(entry["values"][place[name]] for entry in theirs["rows"])]
        for name, row in per_class.items()
    ]
    models = [f"{entry['model']} {entry['resolution']}" for entry in theirs["rows"]]
    table = Table(
        ["", "real", "generated", "this run", *models],
        rows,
        "Each observation (Table 4): Fréchet distance",
        f"Real and generated pictures that show it. This run: {judged}. {theirs['note']}",
        groups=[("", 1), ("pictures", 2), ("", 1), (theirs["source"], len(models))],
        decimals=[0, 0, 0, 3, *[2] * len(models)],
    )
    return [table, page.bars_of(table, [3], "Fréchet distance, this run", maximum=None)]


def cases_of_images(
    real: Images, fake: Images, real_features: np.ndarray, fake_features: np.ndarray, pairs: np.ndarray | None
) -> list[str]:
    """The worst and the best pictures: by alignment where it is known, else by how far the nearest real image is."""
    distance, index = metrics.nearest(fake_features, real_features)
    order = np.argsort(-distance.numpy()) if pairs is None else np.argsort(pairs)
    by = "distance to the nearest real image" if pairs is None else "alignment with the prompt"
    of_prompt, blocks = {text: i for i, text in enumerate(real.texts) if text}, []
    for title, chosen in (("Worst", order[:6]), ("Best", order[::-1][:6])):
        items = []
        for i in chosen.tolist():
            partner = of_prompt.get(fake.texts[i], int(index[i]))
            same = "real, same text" if fake.texts[i] in of_prompt else "the nearest real image"
            items.append((thumbnail(fake.load(i)), f"generated: {fake.texts[i] or fake.files[i].name}"))
            items.append((thumbnail(real.load(partner)), f"{same} ({real.files[partner].name})"))
        blocks += [page.heading(f"{title} pictures, by {by}"), page.pictures(items)]
    return blocks


def memorisation_blocks(fake: Images, train: Images, closest: dict) -> list[Table | Paragraph | str]:
    drawn, index = closest["drawn"], closest["index"]
    items = []
    for i in np.argsort(drawn)[:8].tolist():
        items.append((thumbnail(fake.load(i)), f"generated ({fake.files[i].name})"))
        source = f"training image {train.files[index[i]].name}, at {drawn[i]:.3f}"
        items.append((thumbnail(train.load(int(index[i]))), source))
    edges = np.histogram_bin_edges(np.concatenate([drawn, closest["unseen"]]), 12)
    shares = [100 * np.histogram(line, edges)[0] / len(line) for line in (drawn, closest["unseen"])]
    rows = [[f"{edges[k]:.3g} to {edges[k + 1]:.3g}", shares[0][k], shares[1][k]] for k in range(12)]
    distances = Table(["distance", "generated", "real, unseen"], rows, decimals=1)
    said = (
        "{share_nearer:.1%} of the drawn pictures are nearer to a training image than 99 % of the real ones, which were"
    )
    said += (
        " not trained on, are (median distance {median_drawn:.3f}, of real ones {median_unseen:.3f}). Well above 1 %"
    )
    said += " would be a sign of memorisation; look at the pairs."
    return [
        page.heading("Has it memorised training pictures?"),
        Paragraph(said.format(**closest)),
        page.bars_of(distances, [1, 2], "Percent of the pictures at each distance to the nearest training image", None),
        page.pictures(items, "The closest pairs"),
    ]
