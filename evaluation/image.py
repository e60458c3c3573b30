"""evaluate.py image: generated pictures against real ones, as sets of features (Tables 3 and 4).

Fréchet and kernel distance, precision, recall, density and coverage in RadDino's features, as CheXGenBench computes
them; BioViL's agreement of picture and prompt; the Fréchet distance of every observation; and, with --train, whether
pictures have been memorised. Without RadDino's weights the tiny model's ViT steps in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from common.files import SHIPPED, write_text
from common.observations import OBSERVATIONS
from common.ownership import own_folder
from common.pictures import grid, save_png
from common.sampling import DISCLAIMER
from evaluation import metrics, page
from evaluation.protocol import NOT_THEIRS, OURS, UNIX, Protocol, heading, image_sets, set_drawing_flags
from evaluation.results import (
    OURS_ONLY,
    Scored,
    footer,
    mean_and_interval,
    paper_table,
    thumbnail,
    together,
    write_results,
)

if TYPE_CHECKING:
    from PIL import Image

    from common.distributed import Team
    from judges.features import Images

NEIGHBOURS = 5  # k of precision, recall, density and coverage, as CheXGenBench has it
TABLE3 = ("fd", "kd", "alignment", "precision", "recall", "density", "coverage")


def image_command(args: argparse.Namespace) -> None:
    """`evaluate.py image`: draw if asked to, score, and write results.json and report.html."""
    own_folder(args.out)
    from judges.features import features, load_feature_extractor, open_images

    if args.vit and args.raddino:
        raise UserError(f"--vit {args.vit}: --raddino judges already; leave one of them out")
    if (args.fake is None) == (args.weights is None):
        raise UserError("give either --fake, pictures to score, or --weights, a model to draw them first")
    protocol = UNIX if args.protocol == UNIX.name else OURS
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
    extractor = load_feature_extractor(args.raddino, args.device, args.vit or SHIPPED)
    took = time.perf_counter()
    sets = [features(images, extractor, args.cache, args.batch or 32, progress=True) for images in (real, fake)]
    results = {"extractor": extractor.name, "comparable": extractor.comparable, **score_images(*sets, real, fake)}
    if protocol.shards > 1:
        results["shards"] = score_shards(*sets, protocol.shards)
    results["alignment"], pairs, results["aligner"] = alignment(args, fake)
    lacks += scoring_lacks(protocol, real, results)
    train, closest = None, None
    if args.train:
        train = open_images(args.train, "train", args.cache)
        of_train = features(train, extractor, args.cache, args.batch or 32, progress=True)
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
    write_results(args.out, {**about, **results})
    blocks = image_page(results, about)
    if args.weights and any(fake.texts):
        save_png(side_by_side(real, fake), args.out / "sheet.png")
        blocks.append(page.text("sheet.png: drawings of sixteen prompts, each beside the real film."))
    blocks += cases_of_images(real, fake, *sets, pairs)
    if closest:
        blocks += memorisation_page(fake, train, closest)
    write_text(args.out / "report.html", page.page("Drawing chest X-rays", blocks, footer=footer(about)))
    print(image_text(results, about), DISCLAIMER, sep="\n\n")
    print(f"\n{args.out}: results.json, report.html")


def one_a_prompt(real: Images) -> Images:
    """CheXGenBench keeps the first image of every prompt; so do we where every image has a prompt of its set's."""
    if real.kind != "chexgenbench":
        return real
    first = dict(zip(reversed(real.texts), reversed(range(len(real))), strict=True))
    return real.only(sorted(first.values()))


def draw_prompts(args: argparse.Namespace, team: Team, real: Images) -> tuple[Path | None, str | None]:
    """A picture for every different text of `real`, each process its share: OUT/generated, as CheXGenBench reads it.

    A picture's noise belongs to --seed and its number alone; --resume draws only what is not there yet.
    """
    import torch
    from PIL import Image
    from tqdm import tqdm

    import sample
    from archives.chexgenbench import write_generated
    from common.pictures import save_png
    from judges.features import weights_hash

    prompts = list(dict.fromkeys(text for text in real.texts if text))
    if not prompts:
        raise UserError(f"--real {args.real}: has no texts to draw from; give a data set with reports, or --fake")
    checkpoint = sample.load_model(args.weights, team.device, getattr(torch, args.dtype))
    version = weights_hash(args.weights)
    room = checkpoint.model.config.context_length - 2
    fitting = [prompt for prompt in prompts if len(checkpoint.encode(prompt)) <= room]
    if team.is_main and len(fitting) < len(prompts):
        print(f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are too long for the model; left out")
    settings = {name: getattr(args, name) for name in ("seed", "steps", "solver", "size", "dtype")}
    settings["guidance"] = args.guidance or checkpoint.model.config.guidance
    digest = hashlib.sha256("\n".join(fitting).encode()).hexdigest()[:12]
    settings = json.dumps({**settings, "weights": version, "prompts": digest})
    folder, names = args.out / "generated", [f"{index:06d}.png" for index in range(len(fitting))]
    if team.is_main:
        own_folder(folder)
        stamp = folder / "settings.json"
        if not (args.resume and stamp.is_file() and stamp.read_text() == settings):
            for file in folder.glob("*.png"):
                file.unlink()
        write_text(stamp, settings)
    team.sum([0.0])
    mine = [index for index in range(team.rank, len(fitting), team.size) if not (folder / names[index]).is_file()]
    batch = args.batch or 16
    with tqdm(total=len(mine), unit="image", desc="drawing", disable=not team.is_main) as bar:
        for start in range(0, len(mine), batch):
            rows = mine[start : start + batch]
            seeds = [args.seed + index for index in rows]
            chosen = [fitting[index] for index in rows]
            drawn = sample.draw(
                checkpoint, chosen, seeds, args.size, args.steps, args.guidance, args.batch, solver=args.solver
            )
            for index, picture in zip(rows, drawn, strict=True):
                save_png(Image.fromarray(picture), folder / names[index])
            bar.update(len(rows))
    team.sum([0.0])
    if not team.is_main:
        return None, None
    return write_generated(folder, names, fitting), f"{args.weights} ({version})"


def table_3(real: np.ndarray, fake: np.ndarray) -> dict[str, float | Scored]:
    """The measures of Table 3 but for the alignment, of features (N, width) and (M, width)."""
    scores = {"fd": metrics.frechet_distance(real, fake), "kd": metrics.kernel_distance(real, fake)}
    each = metrics.prdc_samples(real, fake, NEIGHBOURS)
    return scores | {name: mean_and_interval(values) for name, values in each.items()}


def score_images(real: np.ndarray, fake: np.ndarray, real_set: Images, fake_set: Images) -> dict:
    """Tables 3 and 4, of features (N, width) and (M, width)."""
    scores = table_3(real, fake)
    per_class = {}
    for k, name in enumerate(OBSERVATIONS):
        if real_set.labels is None or fake_set.labels is None:
            break
        a, b = real[real_set.labels[:, k]], fake[fake_set.labels[:, k]]
        per_class[name] = {
            "real": len(a),
            "fake": len(b),
            "fd": metrics.frechet_distance(a, b) if min(len(a), len(b)) >= 2 else None,
        }
    return {"table_3": scores, "per_class": per_class}


def floor_of(real: np.ndarray, train: np.ndarray, count: int) -> dict[str, float | Scored]:
    """Table 3 of real training films in the place of drawings, as many: no model of these films does better.

    real, train: features (N, width), (M, width).
    """
    chosen = np.random.default_rng(0).permutation(len(train))[:count]
    return table_3(real, train[chosen])


def shown_by_prompts(
    sets: list[np.ndarray], of_train: np.ndarray, real: Images, fake: Images, train: Images
) -> dict | None:
    """`shown.score_shown`, where training films and texts have labels; a drawing should show what its prompt says."""
    from evaluation import shown
    from reports.labeler import label_reports

    if train.labels is None or real.labels is None or not all(fake.texts):
        return None
    prompted = label_reports(fake.texts) == 1
    return shown.score_shown((of_train, train.labels), (sets[0], real.labels), (sets[1], prompted))


def side_by_side(real: Images, fake: Images, count: int = 16) -> Image.Image:
    """A sheet of `count` drawings spread over the set, each to the right of the real film with its prompt."""
    of_prompt = {text: i for i, text in enumerate(real.texts) if text}
    chosen = [i for i in range(len(fake)) if fake.texts[i] in of_prompt]
    chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().astype(int)]
    pictures, captions = [], []
    for i in chosen:
        pictures += [thumbnail(real.load(of_prompt[fake.texts[i]])), thumbnail(fake.load(i))]
        captions += [f"real: {fake.texts[i]}"[:120], "drawn"]
    return grid(pictures, captions, columns=8)


def score_shards(real: np.ndarray, fake: np.ndarray, shards: int) -> dict[str, float]:
    """Table 3 as CheXGenBench's command averages it over parts of both sets, in their order, to save memory.

    The Fréchet distance grows as the sets shrink, so this is another number than that of the whole.
    """
    parts = zip(np.array_split(real, shards), np.array_split(fake, shards), strict=True)
    rows = []
    for a, b in parts:
        each = metrics.prdc_samples(a, b, NEIGHBOURS)
        row = {"fd": metrics.frechet_distance(a, b), "kd": metrics.kernel_distance(a, b)}
        rows.append(row | {name: float(np.mean(values)) for name, values in each.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


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
    from PIL import Image
    from tqdm import tqdm

    from judges.biovil import load_aligner

    aligner, each, batch = load_aligner(args.aligner, args.device), [], args.batch or 32
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


def image_heading(results: dict) -> str:
    note = "" if results["comparable"] else f"; {OURS_ONLY}"
    aligned = f"; alignment by {results['aligner']}" if results["aligner"] else ""
    return f"features of {results['extractor']}{note}{aligned}"


def image_text(results: dict, about: dict) -> str:
    """For the terminal: our row above the paper's."""
    paper, ours = page.paper_table(3), table3_cells(results)
    names = ("FD", "KD", "alignment", "precision", "recall", "density", "coverage")
    lines = [
        f"real: {about['real']}, fake: {about['fake']}; {image_heading(results)}",
        f"Protocol: {about['protocol']}.\n",
        f"{'':<26}" + "".join(f"{name:>11}" for name in names),
        f"{'this run':<26}" + "".join(cell(value) for value in ours),
    ]
    if "shards" in results:
        lines.append(f"{'this run, mean of parts':<26}" + "".join(cell(value) for value in shard_cells(results)))
    if "floor" in results:
        lines.append(f"{'real training films':<26}" + "".join(cell(value) for value in floor_cells(results)))
    for entry in paper["rows"]:
        label = f"paper: {entry['model']} {entry['resolution']}"
        lines.append(f"{label:<26}" + "".join(cell(value) for value in entry["values"]))
    if results["per_class"]:
        lines.append(f"\n{'':<28}{'real':>7}{'fake':>7}{'FD':>11}")
        for name, row in results["per_class"].items():
            lines.append(f"{name:<28}{row['real']:>7}{row['fake']:>7}{cell(row['fd'])}")
    if results.get("shown"):
        lines += ["", SHOWN, f"{'':<28}{'prompts':>9}{'drawn':>9}{'shuffled':>10}{'real':>9}"]
        lines += [
            f"{row[0]:<28}" + "".join(f"{shown_cell(v):>{w}}" for v, w in zip(row[1:], (9, 9, 10, 9), strict=True))
            for row in shown_rows(results["shown"])
        ]
    if about["train"]:
        lines.append(
            "\nmemorisation: {share_nearer:.1%} of the drawn pictures are nearer to a training image than 99 % of the"
            " real ones are\n(median distance {median_drawn:.3f}, of real ones {median_unseen:.3f})".format(
                **results["memorisation"]
            )
        )
    return "\n".join(lines)


SHOWN = (
    "Do drawings show what was asked for? Area under the ROC curve of a linear judge trained on the training films:\n"
    "drawings against their prompts, against exchanged prompts (0.5), and unseen real films (the ceiling)."
)


def shown_rows(shown: dict) -> list[list]:
    mean = [shown["mean"][name] for name in ("drawn", "shuffled", "real")]
    rows = [
        [name, row["positives"], *(row[column] for column in ("drawn", "shuffled", "real"))]
        for name, row in shown["each"].items()
    ]
    return [["mean", None, *mean], *rows]


def shown_cell(value: int | float | Scored | None) -> str:
    number = value[0] if isinstance(value, tuple) else value
    return "" if number is None else f"{number:.3f}" if isinstance(number, float) else str(number)


def cell(value: float | Scored | None) -> str:
    number = value[0] if isinstance(value, tuple) else value
    return f"{'-' if number is None else format(number, '.3f'):>11}"


def table3_cells(results: dict) -> list[float | Scored | None]:
    return [{**results["table_3"], "alignment": results["alignment"]}[name] for name in TABLE3]


def floor_cells(results: dict) -> list[float | Scored | None]:
    """As `table3_cells`, of training films in the place of drawings; they have no prompts to agree with."""
    return [results["floor"].get(name) for name in TABLE3]


def shard_cells(results: dict) -> list[float | Scored | None]:
    """As `table3_cells`, of the parts' mean; the alignment is that of the whole, as theirs is."""
    return [{**results["shards"], "alignment": results["alignment"]}[name] for name in TABLE3]


def image_page(results: dict, about: dict) -> list[str]:
    judged = f"Real: {about['real']}. Generated: {about['fake']}. {image_heading(results)}."
    theirs = "the authors' protocol" if about["protocol"].startswith("the") else NOT_THEIRS
    blocks = [
        page.text([judged, f"Protocol: {about['protocol']}.", DISCLAIMER]),
        page.heading("Fidelity and diversity (Table 3)"),
        paper_table(
            3,
            table3_cells(results),
            f"{image_heading(results)}; {theirs}",
            "resolution",
            parts=shard_cells(results) if "shards" in results else None,
            note="Paper: RadDino on the test split of MIMIC-CXR. FD and KD also depend on the number of pictures. Small"
            " numbers: 95 % intervals by bootstrap over the pictures; FD and KD have none, since drawing with"
            " replacement would bias them.",
        ),
    ]
    if "floor" in results:
        rows = [["this run", *table3_cells(results)], ["real training films", *floor_cells(results)]]
        note = "The second row puts as many training films in the place of the drawings: the floor of both distances."
        blocks.append(page.table(["", *TABLE3], rows, note=note))
    if results.get("shown"):
        headers = ["", "prompts", "drawn", "shuffled", "real"]
        blocks += [page.heading("Do drawings show what was asked for?"), page.text(SHOWN.split("? ")[1])]
        blocks.append(page.table(headers, shown_rows(results["shown"]), decimals=[0, 0, 3, 3, 3]))
    if results["per_class"]:
        order = [column["name"] for column in page.paper_table(4)["columns"]]
        counts = (f"{name} {row['real']} and {row['fake']}" for name, row in results["per_class"].items())
        blocks += [
            page.heading("Each observation (Table 4): Fréchet distance"),
            paper_table(
                4,
                [results["per_class"][name]["fd"] for name in order],
                f"{image_heading(results)}; {theirs}",
                "resolution",
                note="Real and generated pictures: " + ", ".join(counts) + ".",
            ),
            page.bars(
                [(name, row["fd"], None, None, "") for name, row in results["per_class"].items()],
                "Fréchet distance, this run",
                maximum=None,
            ),
        ]
    return blocks


def cases_of_images(
    real: Images, fake: Images, real_features: np.ndarray, fake_features: np.ndarray, pairs: np.ndarray | None
) -> list[str]:
    """The worst and the best pictures: by alignment where it is known, else by how far the nearest real image is."""
    distance, index = metrics.nearest(fake_features, real_features)
    order = np.argsort(pairs) if pairs is not None else np.argsort(-distance.numpy())
    by = "alignment with the prompt" if pairs is not None else "distance to the nearest real image"
    of_prompt = {text: i for i, text in enumerate(real.texts) if text}
    blocks = []
    for title, chosen in (("Worst", order[:6]), ("Best", order[::-1][:6])):
        items = []
        for i in chosen.tolist():
            partner = of_prompt.get(fake.texts[i], int(index[i]))
            same = "real, same text" if fake.texts[i] in of_prompt else "the nearest real image"
            prompt = f": {fake.texts[i]}" if fake.texts[i] else f" ({fake.files[i].name})"
            items += [
                (thumbnail(fake.load(i)), f"generated{prompt}"),
                (thumbnail(real.load(partner)), f"{same} ({real.files[partner].name})"),
            ]
        blocks += [page.heading(f"{title} pictures, by {by}"), page.pictures(items)]
    return blocks


def memorisation_page(fake: Images, train: Images, closest: dict) -> list[str]:
    drawn, index = closest["drawn"], closest["index"]
    items = []
    for i in np.argsort(drawn)[:8].tolist():
        items += [
            (thumbnail(fake.load(i)), f"generated ({fake.files[i].name})"),
            (thumbnail(train.load(int(index[i]))), f"training image {train.files[index[i]].name}, at {drawn[i]:.3f}"),
        ]
    return [
        page.heading("Memorisation: is a drawn picture a training picture again?"),
        page.text(
            f"{closest['share_nearer']:.1%} of the drawn pictures are nearer to a training image than 99 % of the real"
            " ones, which were not trained on, are. Well above 1 % would be a sign of memorisation; look at the pairs."
        ),
        page.histogram(
            {"drawn to nearest training image": drawn, "real, unseen, to nearest training image": closest["unseen"]},
            "Distance to the nearest training image",
            "distance in feature space",
        ),
        page.pictures(items, "The closest pairs"),
    ]
