"""evaluate.py image: sets of pictures, their features and where they are kept, drawing first, and memorisation."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from common.errors import UserError
from common.observations import OBSERVATIONS
from evaluation import generated, metrics
from judges import features
from phantoms.dataset import phantom

FINDINGS = ("Cardiomegaly", "Edema", "Pleural Effusion", "Pneumothorax")


def command(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "image", *map(str, flags)])
    evaluate.main()


def picture(index, seed=1):
    return phantom(seed, index, 128).image


@pytest.fixture
def sets(tmp_path):
    """real: a data set of 12 pictures with labels, fake: CheXGenBench's table of 8 others, drawn from its prompts."""
    for folder, seed, count in (("real", 1, 12), ("fake", 3, 8)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            Image.fromarray(picture(index, seed)).save(tmp_path / folder / f"{index}.png")
    rows = [(f"{i}.png", f"{FINDINGS[i % 4]} number {i}.", json.dumps({FINDINGS[i % 4]: 1}), "test") for i in range(12)]
    with open(tmp_path / "real/metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "report", "labels", "split"), *rows])
    with open(tmp_path / "fake/generations_with_metadata.csv", "w", newline="") as file:
        table = [(f"{i}.png", rows[i][1]) for i in range(8)]
        csv.writer(file).writerows([("synthetic_filename", "annotated_prompt"), *table])
    return tmp_path


def test_scores_are_those_of_the_features(sets, monkeypatch, capsys):
    flags = ("--cache", sets / "cache", "--out", sets / "out", "--batch", 5)
    table = sets / "fake/generations_with_metadata.csv"
    command(monkeypatch, "--real", sets / "real", "--fake", table, *flags)
    results = json.loads((sets / "out/results.json").read_text())
    extractor = features.load_feature_extractor(None)
    real = extractor.extract(torch.from_numpy(np.stack([picture(i, 1) for i in range(12)]))).numpy()
    fake = extractor.extract(torch.from_numpy(np.stack([picture(i, 3) for i in range(8)]))).numpy()
    scores = results["table_3"]
    assert scores["fd"] == pytest.approx(metrics.frechet_distance(real, fake), rel=1e-4)
    assert scores["kd"] == pytest.approx(metrics.kernel_distance(real, fake), rel=1e-4)
    for name, value in ((name, each.mean()) for name, each in metrics.prdc_samples(real, fake).items()):
        assert scores[name][0] == pytest.approx(value) and scores[name][1] <= value <= scores[name][2]
    # A generated picture shows what the real one with its prompt shows: number 0 and 4, of 0, 4 and 8.
    assert results["per_class"]["Cardiomegaly"] == {
        "real": 3,
        "fake": 2,
        "fd": pytest.approx(metrics.frechet_distance(real[[0, 4, 8]], fake[[0, 4]]), rel=1e-4),
    }
    assert results["per_class"]["Fracture"]["fd"] is None
    text, page = capsys.readouterr().out, (sets / "out/report.html").read_text()
    for said in (text, page):
        assert "tiny model's ViT" in said.replace("&#x27;", "'") and "compares with nothing outside" in said
        assert "not a medical device" in said and "Pixart Sigma" in said and all(name in said for name in OBSERVATIONS)


def test_a_model_draws_what_the_real_texts_say_and_a_cut_off_run_goes_on(sets, micro_folder, monkeypatch, capsys):
    flags = ("--real", sets / "real", "--weights", micro_folder, "--steps", 2, "--size", 32, "--batch", 5)
    flags += ("--out", sets / "out", "--cache", sets / "cache")
    command(monkeypatch, *flags)
    drawn = sorted((sets / "out/generated").glob("*.png"))
    assert len(drawn) == 12 and np.array(Image.open(drawn[0])).shape == (32, 32)
    with open(sets / "out/generated/generations_with_metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[3] == {"synthetic_filename": "000003.png", "annotated_prompt": "Pneumothorax number 3."}
    assert json.loads((sets / "out/results.json").read_text())["per_class"]["Cardiomegaly"]["fake"] == 3

    content = {path: path.read_bytes() for path in drawn}
    times = {path: path.stat().st_mtime_ns for path in drawn}
    drawn[7].unlink()
    command(monkeypatch, *flags, "--resume")
    # A batch rounds as a whole, so the batch of the lost picture is drawn again, and to the same bytes.
    assert [path for path in drawn if path.stat().st_mtime_ns != times[path]] == drawn[5:10]
    assert {path: path.read_bytes() for path in drawn} == content
    command(monkeypatch, *flags, "--resume", "--seed", 5)  # other settings: all anew
    assert all(path.read_bytes() != content[path] for path in drawn)


def test_a_run_that_was_killed_three_times_ends_with_the_same_results(sets, micro_folder, monkeypatch, capsys):
    flags = ("--real", sets / "real", "--weights", micro_folder, "--steps", 2, "--size", 32, "--cache", sets / "cache")
    command(monkeypatch, *flags, "--out", sets / "whole")
    save, left = generated.save_png, []

    def killed(picture, path):
        if not left.pop():
            raise KeyboardInterrupt
        save(picture, path)

    monkeypatch.setattr(generated, "save_png", killed)
    for number in (1, 2, 6):  # pictures until the kill; the first batch is cut twice
        left[:] = [False, *[True] * number]
        with pytest.raises(KeyboardInterrupt):
            command(monkeypatch, *flags, "--out", sets / "cut", "--resume")
    left[:] = [True] * 100
    command(monkeypatch, *flags, "--out", sets / "cut", "--resume")
    whole, cut = (json.loads((sets / name / "results.json").read_text()) for name in ("whole", "cut"))
    assert {k for k in whole if whole[k] != cut[k]} <= {"command", "fake"}


def test_a_training_picture_drawn_again_is_found(sets, monkeypatch, capsys):
    (sets / "train").mkdir()
    for index in range(10):
        Image.fromarray(picture(index, 5)).save(sets / f"train/t{index}.png")
    Image.fromarray(picture(7, 5)).save(sets / "fake/2.png")
    flags = ("--real", sets / "real", "--fake", sets / "fake", "--train", sets / "train", "--cache", sets / "cache")
    command(monkeypatch, *flags, "--out", sets / "out")
    results, page = json.loads((sets / "out/results.json").read_text()), (sets / "out/report.html").read_text()
    assert results["memorisation"]["share_nearer"] >= 1 / 8
    pairs = page[page.index("look at the closest pairs") :]
    assert pairs.index("generated (2.png)") < pairs.index("t7.png, at 0.000")
    assert "memorisation" in capsys.readouterr().out


def test_what_was_trained_on_is_no_yardstick(sets, monkeypatch):
    (sets / "train").mkdir()
    for index in range(12):
        Image.fromarray(picture(index)).save(sets / f"train/{index}.png")
    flags = ("--real", sets / "real", "--train", sets / "train", "--fake", sets / "fake", "--out", sets / "out")
    with pytest.raises(UserError, match="not trained on"):
        command(monkeypatch, *flags, "--cache", sets / "cache")


def test_real_images_with_one_prompt_count_once(tmp_path):
    """As CheXGenBench has it, for the tables it uses."""
    from evaluation.image import one_a_prompt

    for index in range(3):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
    with open(tmp_path / "test.csv", "w", newline="") as file:
        rows = [("0.png", "same"), ("1.png", "other"), ("2.png", "same")]
        csv.writer(file).writerows([("path", "annotated_prompt"), *rows])
    images = one_a_prompt(features.open_images(tmp_path / "test.csv", "all"))
    assert [(each.image, each.impression) for each in images.records] == [("0.png", "same"), ("1.png", "other")]
    np.testing.assert_array_equal(images.image(1), picture(1))


def test_raddino_sees_what_chexgenbench_shows_it(monkeypatch, tmp_path):
    """Stretched to 299 x 299 first (there, for Inception's sake), and the class token is the feature."""
    seen = []

    def raddino(images):
        seen.append(tuple(images.shape))
        return images.float().mean(dim=(1, 2))[:, None], None

    monkeypatch.setattr(features, "load_raddino", lambda folder, device: raddino)
    Image.fromarray(picture(0)[:100]).save(tmp_path / "0.png")
    extractor = features.load_feature_extractor(tmp_path)
    found = features.features(features.open_images(tmp_path), extractor, tmp_path / "cache")
    assert extractor.comparable and seen == [(1, 299, 299)] and found.shape == (1, 1)


def test_features_are_kept_until_a_picture_or_the_weights_change(tmp_path):
    seen = []
    extractor = features.FeatureExtractor(
        "mean",
        False,
        "one",
        lambda image: image,
        lambda images: seen.append(1) or images.float().mean(dim=(1, 2))[:, None],
    )

    def found():
        return features.features(features.open_images(tmp_path / "films"), extractor, cache=tmp_path / "cache")

    (tmp_path / "films").mkdir()
    for index in range(2):
        Image.fromarray(picture(index)).save(tmp_path / "films" / f"{index}.png")
    first = found()
    assert np.array_equal(found(), first) and len(seen) == 1
    Image.fromarray(picture(5)).save(tmp_path / "films" / "1.png")
    assert not np.array_equal(found(), first) and len(seen) == 2
    extractor.version = "two"
    assert found() is not None and len(seen) == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "either --fake"),
        (("--fake", "fake", "--weights", "fake"), "either --fake"),
        (("--fake", "absent"), "absent"),
        (("--fake", "few"), "at least 6"),
        (("--fake", "fake", "--train", "few"), "--train few: 2 images; at least 6"),
        (("--fake", "tables"), "several tables (metadata.csv, metadata.jsonl); name the one to use"),
        (("--weights", "fake", "--raddino", "few"), "few"),
        (("--fake", "broken"), "bad.png"),
        (("--fake", "fake", "--n", "1"), "--n 1"),
        (("--fake", "fake", "--raddino", "absent"), "--raddino absent"),
        (("--fake", "fake", "--split", "train"), "train"),
        (("--fake", "fake", "--steps", "20"), "--steps: is for a model that draws"),
        (("--fake", "fake", "--seed", "0"), "--seed: is for a model that draws"),
        (("--fake", "fake", "--vit", "fake", "--raddino", "fake"), "--vit: --raddino judges already"),
    ],
)
def test_bad_input_is_refused_in_one_line(sets, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(sets)
    for folder, names in (("few", "ab"), ("broken", "abcdef")):
        (sets / folder).mkdir()
        for name in names:
            Image.fromarray(picture(0)).save(sets / folder / f"{name}.png")
    (sets / "broken/bad.png").write_bytes(b"no picture")
    shutil.copytree(sets / "real", sets / "tables")
    (sets / "tables/metadata.jsonl").touch()
    with pytest.raises(SystemExit) as stopped:
        evaluate.run(lambda: command(monkeypatch, "--real", sets / "real", "--out", sets / "out", *flags))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "error: " in error and words in error
