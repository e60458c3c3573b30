"""A folder of ours is loaded only if every file is what was saved."""

import json
import os
import shutil

import pytest

import weights as command
from checkpoints.folders import check_folder, find_checkpoint
from common.errors import UserError
from common.files import SHIPPED
from inside import run_inside
from weights import load_checkpoint, save_checkpoint

FILES = ["config.json", "model.safetensors", "tokenizer.json", "vae.safetensors"]
BELONGS = {"run": "0123456789ab", "step": 7}


@pytest.fixture
def folder(micro_folder, tmp_path):
    return shutil.copytree(micro_folder, tmp_path / "weights")


def flip_bit(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def weights(*arguments):
    return run_inside(command.main, *arguments)


def test_a_manifest_describes_every_file(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["files"]) == FILES and "run" not in manifest
    assert all(entry["size"] == (folder / name).stat().st_size for name, entry in manifest["files"].items())
    load_checkpoint(folder)


def test_a_model_card_stays_and_may_be_changed(micro, folder):
    (folder / "README.md").write_text("What it is.")
    save_checkpoint(folder, micro)
    (folder / "README.md").write_text((folder / "README.md").read_text() + " What it must not be used for.")
    load_checkpoint(folder)
    assert "README.md" not in json.loads((folder / "manifest.json").read_text())["files"]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused_by_the_files_name(folder, name):
    flip_bit(folder / name, at=-3)
    with pytest.raises(UserError, match=rf"{name}: (is not what was saved|not readable JSON)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_shorter_or_gone_is_refused_by_its_name(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{name}: has [\d,]+ bytes, [\d,]+ were saved"):
        load_checkpoint(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: (cannot be read|missing)"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not readable JSON"),
        ("[]", "a JSON object is expected"),
        ("{}", "not a manifest of ours"),
        ('{"files": {"config.json": 3}}', "not a manifest of ours"),
        ('{"files": {"../x": {"sha256": "", "size": 0}}}', "names '../x', which is no file beside it"),
        ("[" * 100_000, "not readable JSON"),
    ],
)
def test_a_broken_manifest_is_a_line(folder, content, words):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=f"manifest\\.json: {words}"):
        load_checkpoint(folder)


def test_without_a_manifest_there_is_nothing_to_compare(folder):
    (folder / "manifest.json").unlink()
    flip_bit(folder / "model.safetensors")
    load_checkpoint(folder)


def test_the_shipped_weights_are_as_they_were_saved():
    assert (SHIPPED / "manifest.json").exists()
    load_checkpoint(SHIPPED)


@pytest.mark.slow
def test_inspect_says_whether_the_files_are_as_saved(folder):
    assert "manifest ok: 4 files as they were saved" in weights("inspect", folder).stdout
    flip_bit(folder / "vae.safetensors")
    refused = weights("inspect", folder)
    assert refused.returncode == 2 and f"{folder}/vae.safetensors: is not what was saved" in refused.stderr
    assert "delete manifest.json" in refused.stderr
    (folder / "manifest.json").unlink()
    assert "manifest none" in weights("inspect", folder).stdout


def test_inspect_names_run_and_step(micro, tmp_path):
    save_checkpoint(tmp_path / "marked", micro, **BELONGS)
    assert "4 files as they were saved, run 0123456789ab, step 7" in weights("inspect", tmp_path / "marked").stdout


def test_the_same_weights_are_the_same_bytes(micro, tmp_path):
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, micro, **BELONGS)
    for file in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


# ---- which checkpoint is meant -----------------------------------------------------------------------------------


@pytest.fixture
def run_folder(micro, tmp_path):
    """A run that saved steps 1, 2 and 3: the last two are there."""
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "run/checkpoint", micro, keep_last=True, run="abc", step=step)
    return tmp_path / "run"


def step_of(folder):
    return check_folder(folder)["step"]


def test_the_newest_sound_checkpoint_is_meant(run_folder, capsys):
    assert step_of(find_checkpoint(run_folder)) == 3 and not capsys.readouterr().err
    flip_bit(run_folder / "checkpoint/model.safetensors")
    for _ in range(2):
        assert find_checkpoint(run_folder) == run_folder / "checkpoint.old"
    assert step_of(find_checkpoint(run_folder)) == 2
    load_checkpoint(run_folder)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "checkpoint/model.safetensors: is not what was saved" in said
    assert f"Using {run_folder / 'checkpoint.old'} instead" in said


def test_if_none_is_sound_both_are_named(run_folder):
    (run_folder / "checkpoint/vae.safetensors").unlink()
    flip_bit(run_folder / "checkpoint.old/config.json")
    with pytest.raises(UserError, match=r"vae\.safetensors: cannot be read.*damaged too: .*config\.json: is not what"):
        find_checkpoint(run_folder)


def test_nothing_saved_is_none(tmp_path):
    assert find_checkpoint(tmp_path) is None and find_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_save_over_a_damaged_checkpoint_never_leaves_less_than_the_sound_one(run_folder, micro, monkeypatch, renames):
    """A kill after any of its renames."""
    flip_bit(run_folder / "checkpoint/model.safetensors")
    done = []

    def rename(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append((source, target))
        os.replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("checkpoints.folders.os.rename", rename)
        patch.setattr("checkpoints.folders.shutil.rmtree", lambda *_, **__: None) if renames == 3 else None
        if renames < 3:
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(run_folder / "checkpoint", micro, keep_last=True, run="abc", step=4)
        else:
            save_checkpoint(run_folder / "checkpoint", micro, keep_last=True, run="abc", step=4)
    assert step_of(find_checkpoint(run_folder)) == (4 if renames == 3 else 2)
    save_checkpoint(run_folder / "checkpoint", micro, keep_last=True, run="abc", step=5)
    assert step_of(find_checkpoint(run_folder)) == 5
    assert sorted(path.name for path in run_folder.iterdir()) == ["checkpoint", "checkpoint.old"]
