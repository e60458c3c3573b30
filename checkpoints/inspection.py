"""What a file of weights is and what loading it would do: `python weights.py inspect PATH`. Nothing is loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from checkpoints import layouts
from checkpoints.configs import read_ours, unix_config, vae_config
from checkpoints.folders import find_checkpoint
from checkpoints.janus import absent_in_janus
from checkpoints.layouts import DINOV2, HF_JANUS, JANUS, KL_VAE, OURS, PUBLISHED, SIGLIP, Layout
from checkpoints.manifest import FILES, Mark, check_folder
from checkpoints.plan import Plan, plan_for, translate_names
from checkpoints.published import read_vit_config
from checkpoints.tensors import PICKLES, PUBLISHED_FILES, Tensors, listed
from common.errors import UserError
from common.files import read_json
from model import UniX
from vae import VAE
from vit import VisionTransformer


def inspect(path: Path, verify: bool = True) -> None:
    """Print what a file, or each file of a folder, is. verify: compare a folder of ours with its checksums."""
    path = find_checkpoint(path, verify) or path
    if all((path / name).is_file() for name in FILES):
        print(f"{path}\n  {manifest_words(path, verify)}")
    files = [path]
    if path.is_dir():
        files = [path / name for name in PUBLISHED_FILES if (path / name).is_file()][:1]
        rest = [path / "vae.safetensors", *sorted((path / "vae").glob("*")), *sorted(path.glob("*.p*t*"))]
        files += [file for file in rest if file.is_file() and file.suffix in (".safetensors", *PICKLES)]
        if not files:
            raise UserError(f"{path}: no weights in it; name a file or a weights folder")
    for file in dict.fromkeys(files):
        inspect_file(file)


def inspect_file(file: Path) -> None:
    tensors = Tensors(file)
    layout = layouts.recognise(tensors.shapes)
    print(f"{file}\n  layout   {layout.holds if layout else 'none we know; its tensors:'}")
    parameters = sum(torch.Size(shape).numel() for shape in tensors.shapes.values())
    kinds = ", ".join(sorted(set(tensors.dtypes.values())))
    print(f"  tensors  {len(tensors.shapes)}, {parameters:,} numbers, {kinds}, {len(tensors.files)} file(s)")
    if layout is None:
        for name, shape in list(tensors.shapes.items())[:20]:
            print(f"  {name} {list(shape)}")
        return
    configs, plan = describe(tensors, layout)
    for config in configs:
        print(f"  {type(config).__name__.removesuffix('Config'):8} {sizes(config)}")
    print(f"  loading  {plan}")
    for what, names in (("copied", plan.copied), ("new", plan.new), ("skipped", plan.skipped)):
        if names:
            print(f"  {what:8} {listed(sorted(names))}")
    print(f"  use      {layout.use.format(folder=file.parent)}")


def manifest_words(folder: Path, verify: bool) -> str:
    """What the manifest of a folder of ours says about its files."""
    try:
        manifest = check_folder(folder, verify)
    except UserError as error:
        return f"DAMAGED  {error}"
    if not manifest:
        return "manifest none: nothing to compare the files with"
    run = f"; {Mark(manifest['run'], manifest.get('step'))}" if "run" in manifest else ""
    return f"manifest ok: {len(manifest['files'])} files {'as they were saved' if verify else 'of the saved size'}{run}"


def describe(tensors: Tensors, layout: Layout) -> tuple[list[object], Plan]:
    """(the configs of its parts, what loading would do)."""
    path = tensors.path.parent / "config.json"
    given = read_json(path, absent={})
    if layout in (OURS, PUBLISHED, JANUS, HF_JANUS):
        ours = layout is OURS and "model" in given
        config = read_ours(given, path)[0] if ours else unix_config(tensors, layout, given)
        absent = partial(absent_in_janus, given=given) if layout in (JANUS, HF_JANUS) else lambda name: None
        return [config, config.vit], plan_for(lambda: UniX(config), tensors, layout.translate, absent)
    if layout is KL_VAE:
        config = read_ours(given, path)[1] if "vae" in given else vae_config(tensors)
        return [config], plan_for(lambda: VAE(config), tensors, layout.translate)
    if layout in (SIGLIP, DINOV2):
        config = read_vit_config(tensors, layout)
        return [config], plan_for(lambda: VisionTransformer(config), tensors, layout.translate)
    plan = translate_names(tensors, layout.translate)
    if plan.unknown:
        raise UserError(f"{tensors.path}: {len(plan.unknown)} tensors unknown ({listed(plan.unknown)})")
    return [], plan


def sizes(config: object) -> str:
    """The whole numbers of a config."""
    numbers = {name: value for name, value in vars(config).items() if type(value) in (int, tuple)}
    return ", ".join(f"{name} {value}" for name, value in numbers.items())
