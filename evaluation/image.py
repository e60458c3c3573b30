"""evaluate.py image: generated pictures against real ones, as sets of features (Tables 3 and 4).

Fréchet and kernel distance, precision, recall, density and coverage in RadDino's features, as CheXGenBench computes
them; BioViL's agreement of picture and prompt; the Fréchet distance of every observation; and, with --train, whether
pictures have been memorised. Without RadDino's weights the tiny model's ViT steps in.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import sample
from archives.foreign import write_generated
from archives.records import Record, Records
from common.devices import dtype_name
from common.distributed import Team, joined_team
from common.errors import UserError
from common.files import SHIPPED
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from evaluation import metrics, page
from evaluation.generated import draw_pictures
from evaluation.metrics import Scored
from evaluation.protocol import heading, named, set_drawing_flags, whose
from evaluation.results import OURS_ONLY, beside_paper, paper, publish
from evaluation.shown import score_shown
from evaluation.tables import Paragraph, Table, value_of
from judges import biovil
from judges import features as judges
from judges.features import labels_of, open_images, prompts_of, weights_hash
from reports.labeler import label_reports

TABLE3 = ("fd", "kd", "alignment", "precision", "recall", "density", "coverage")


def image_command(args: argparse.Namespace) -> None:
    """`evaluate.py image`: draw if asked to, score, and write results.json and report.html."""
    own_folder(args.out)
    if (args.fake is None) == (args.weights is None):
        raise UserError("give either --fake, pictures to score, or --weights, a model to draw them first")
    protocol = named(args.protocol)
    least = 6 * protocol.shards  # more than the neighbours of `metrics.table_3`
    lacks = set_drawing_flags(protocol, args) if args.weights else []
    real = one_a_prompt(open_images(args.real, args.split))
    real.records, weights = real.records[: args.n], None
    check_enough("--real", real, least)
    if train := open_images(args.train, "train") if args.train else None:
        check_enough("--train", train, 6)
    # The judges first: a mistake in a flag should not wait for the drawing.
    extractor = judges.load_feature_extractor(args.raddino, args.device, args.vit or SHIPPED)
    aligner = args.aligner and biovil.load_aligner(args.aligner, args.device)
    if args.weights:
        with joined_team(torch.device(args.device)) as team:
            drawn, weights = draw_prompts(args, team, real)
        if drawn is None:  # the main process scores
            return
        fake = open_images(drawn)
    else:
        fake = open_images(args.fake)
    check_enough("--fake", fake, least)
    prompts, labels, shown = prompts_of(fake), labels_of(real), labels_of(fake)
    of_prompt = {} if labels is None else dict(zip(prompts_of(real), labels, strict=True))
    if all(prompt and prompt in of_prompt for prompt in prompts):
        # As CheXGenBench: what a picture should show is what the real image with that prompt shows.
        shown = np.array([of_prompt[prompt] for prompt in prompts])
    features = partial(judges.features, extractor=extractor, cache=args.cache, batch=args.batch or 32)
    sets = [features(real), features(fake)]
    results = {"table_3": metrics.table_3(*sets), "per_class": per_class(*sets, labels, shown)}
    if protocol.shards > 1:
        results["shards"] = score_shards(*sets, protocol.shards)
    by = aligner.name if aligner and all(prompts) else ""
    results["alignment"] = alignment(aligner, fake, prompts, args.batch or 32) if by else None
    results["judge"] = f"features of {extractor.name}" + ("" if extractor.comparable else f"; {OURS_ONLY}")
    results["judge"] += f"; alignment by {by}" if by else ""
    first = [(fake.image(i), prompts[i] or fake.records[i].image) for i in range(min(16, len(fake)))]
    cases = [page.heading("The first of them"), page.pictures(first)]
    if train:
        of_train = features(train)
        closest = memorisation(*sets, of_train)
        cases += memorisation_blocks(fake, train, closest)
        results["memorisation"] = {k: v for k, v in closest.items() if isinstance(v, float)}
        # As many real training films in the place of the drawings: no model of these films does better.
        chosen = np.random.default_rng(0).permutation(len(train))[: len(fake)]
        results["floor"] = metrics.table_3(sets[0], of_train[chosen])
        if (trained := labels_of(train)) is not None and labels is not None and all(prompts):
            prompted = label_reports(prompts) == 1  # a drawing should show what its prompt says
            results["shown"] = score_shown((of_train, trained), (sets[0], labels), (sets[1], prompted))
    lacks += [] if extractor.comparable else ["the features are not RadDino's"]
    lacks += [] if real.kind == "chexgenbench" else ["--real is no table of CheXGenBench"]
    lacks += [] if by == protocol.aligner else [f"alignment by {by or 'nobody'}, not {protocol.aligner}"]
    results |= {
        "real": f"{real.root} ({len(real)})",
        "fake": f"{fake.root} ({len(fake)})",
        "train": train and f"{train.root} ({len(train)})",
        "weights": weights,
        "protocol": heading(protocol, lacks),
    }
    summary = f"Real: {results['real']}. Generated: {results['fake']}. Judge: {results['judge']}."
    publish(args.out, "Drawing chest X-rays", summary, [*image_blocks(results), *cases], results, weights)


def check_enough(flag: str, images: Records, least: int) -> None:
    """Raises UserError unless there are as many as Table 3 needs."""
    if len(images) < least:
        raise UserError(f"{flag} {images.root}: {len(images)} images; at least {least} are needed")


def one_a_prompt(real: Records) -> Records:
    """CheXGenBench keeps the first image of every prompt; so do we of its set."""
    if real.kind == "chexgenbench":
        first: dict[str, Record] = {}
        for prompt, record in zip(prompts_of(real), real.records, strict=True):
            first.setdefault(prompt, record)
        real.records = [*first.values()]
    return real


def draw_prompts(args: argparse.Namespace, team: Team, real: Records) -> tuple[Path | None, str | None]:
    """A picture for every different text of `real`, each process its share: OUT/generated, as CheXGenBench reads it."""
    prompts = list(dict.fromkeys(filter(None, prompts_of(real))))
    if not prompts:
        raise UserError(f"--real {args.real}: has no texts to draw from; give a data set with reports, or --fake")
    args.dtype = dtype_name(dtype := team.agreed(getattr(torch, args.dtype)))
    checkpoint = sample.load_model(args.weights, team.device, dtype, args.adapter, draws=True)
    checkpoint.own_bos = named(args.protocol).own_bos
    version, config = weights_hash(args.weights, args.adapter), checkpoint.model.config
    room = config.context_length - 2
    fitting = [prompt for prompt in prompts if len(checkpoint.encode(prompt)) <= room]
    if team.is_main and len(fitting) < len(prompts):
        print(f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are too long for the model; left out")
    how = {"size": args.size, "steps": args.steps, "solver": args.solver}
    how["guidance"] = args.guidance or config.guidance
    settings = {"dtype": args.dtype, "weights": version, "protocol": named(args.protocol).name}
    folder = args.out / "generated"
    names = draw_pictures(checkpoint, folder, fitting, args.seed, how, settings, args.batch, team, args.resume)
    if not team.is_main:
        return None, None
    return write_generated(folder, names, fitting), f"{args.weights} ({version})"


def per_class(
    real: np.ndarray, fake: np.ndarray, of_real: np.ndarray | None, of_fake: np.ndarray | None
) -> dict[str, dict]:
    """Table 4, of features (N, width) and (M, width) and labels (N, 14) and (M, 14) bool: observation -> how many of
    both sets, and their distance."""
    if of_real is None or of_fake is None:
        return {}
    found = {}
    for k, name in enumerate(OBSERVATIONS):
        a, b = real[of_real[:, k]], fake[of_fake[:, k]]
        distance = metrics.frechet_distance(a, b) if min(len(a), len(b)) >= 2 else None
        found[name] = {"real": len(a), "fake": len(b), "fd": distance}
    return found


def score_shards(real: np.ndarray, fake: np.ndarray, shards: int) -> dict[str, float]:
    """Table 3 as CheXGenBench's command averages it over parts of both sets, in their order, to save memory.

    The Fréchet distance grows as the sets shrink, so this is another number than that of the whole.
    """
    parts = zip(np.array_split(real, shards), np.array_split(fake, shards), strict=True)
    rows = [metrics.table_3(*part) for part in parts]
    return {name: float(np.mean([value_of(row[name]) for row in rows])) for name in rows[0]}


def alignment(aligner: biovil.Aligner, fake: Records, prompts: list[str], batch: int) -> Scored:
    """BioViL's or BioViL-T's similarity of picture and prompt."""
    each = []
    for start in tqdm(range(0, len(fake), batch), unit="batch", desc="alignment"):
        rows = range(start, min(start + batch, len(fake)))
        each += aligner([Image.fromarray(fake.image(i)) for i in rows], [prompts[i] for i in rows]).tolist()
    return metrics.mean_scores(np.array(each))[0]


def memorisation(real: np.ndarray, fake: np.ndarray, train: np.ndarray) -> dict:
    """Is a drawn picture a training picture again? Distances to the nearest training image, in feature space.

    Real images that were not trained on tell which distance is near: one in a hundred of them is nearer to a training
    image. `share_nearer` is the share of drawn pictures that are nearer than that; without memorisation it is about
    0.01, or less.
    """
    (drawn, index), (unseen, _) = metrics.nearest(fake, train), metrics.nearest(real, train)
    unseen = unseen[unseen > 0]  # at 0 it has been seen: the same picture is in both sets
    if not len(unseen):
        raise UserError("--train: holds every image of --real; give a --real that was not trained on")
    near = float(np.quantile(unseen, 0.01))
    found = {"share_nearer": float((drawn < near).mean()), "near": near}
    found |= {"median_drawn": float(np.median(drawn)), "median_unseen": float(np.median(unseen))}
    return {**found, "drawn": drawn, "index": index}


def image_blocks(results: dict) -> list[Table]:
    """What is printed, and shown on the page."""
    note = "Paper: RadDino on the test split of MIMIC-CXR. FD and KD also depend on the number of pictures. The"
    note += " others have intervals, on the page: 95 %, by bootstrap over pictures, which would bias FD and KD."
    of_all = {"alignment": results["alignment"]}  # of the whole set, as theirs is
    ours = {"this run": results["table_3"] | of_all}
    if "shards" in results:
        ours["this run, mean of parts"] = results["shards"] | of_all
    if "floor" in results:
        ours["real training films"] = results["floor"]  # they have no prompts
        note += " Real training films: as many of them in the place of the drawings, the floor of both distances."
    ours = {name: [scores.get(column) for column in TABLE3] for name, scores in ours.items()}
    judged = f"{results['judge']}; {whose(results['protocol'])}"
    blocks = [beside_paper(3, "Fidelity and diversity (Table 3)", ours, judged, note)]
    if shown := results.get("shown"):
        note = "Area under the ROC curve of a linear judge trained on the training films, the mean over observations."
        rows = [
            ["drawings by their prompts", shown["drawn"]],
            ["by exchanged prompts (0.5: chance)", shown["shuffled"]],
            ["unseen real films (the ceiling)", shown["real"]],
        ]
        blocks.append(Table(["", "area"], rows, "Do drawings show what was asked for?", note, intervals=True))
    return [*blocks, table_4(results["per_class"], results["judge"])] if results["per_class"] else blocks


def table_4(per_class: dict[str, dict], judged: str) -> Table:
    """Table 4 on its side: a row for each observation, a column for each model."""
    theirs = paper(4)
    place = {column["name"]: k for k, column in enumerate(theirs["columns"])}
    rows = [
        [name, row["real"], row["fake"], row["fd"], *(entry["values"][place[name]] for entry in theirs["rows"])]
        for name, row in per_class.items()
    ]
    models = [f"{entry['model']} {entry['resolution']}" for entry in theirs["rows"]]
    return Table(
        ["", "real", "generated", "this run", *models],
        rows,
        "Each observation (Table 4): Fréchet distance",
        f"Real and generated pictures that show it. This run: {judged}. {theirs['note']}",
        groups=[("", 1), ("pictures", 2), ("", 1), (theirs["source"], len(models))],
        decimals=[0, 0, 0, 3, *[2] * len(models)],
    )


def memorisation_blocks(fake: Records, train: Records, closest: dict) -> list[Paragraph | str]:
    items = []
    for i in np.argsort(closest["drawn"])[:8].tolist():
        partner, distance = int(closest["index"][i]), closest["drawn"][i]
        items.append((fake.image(i), f"generated ({fake.records[i].image})"))
        items.append((train.image(partner), f"training image {train.records[partner].image}, at {distance:.3f}"))
    said = "{share_nearer:.1%} of the drawn pictures are nearer to a training image than 99 % of the real ones, which"
    said += " were not trained on, are (median distance {median_drawn:.3f}, of real ones {median_unseen:.3f}). Well"
    said += " above 1 % would be a sign of memorisation; look at the closest pairs."
    return [
        page.heading("Has it memorised training pictures?"),
        Paragraph(said.format(**closest)),
        page.pictures(items),
    ]
