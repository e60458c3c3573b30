"""What a file of weights is and what loading it would do: `python weights.py inspect PATH`. Nothing is loaded."""

from functools import partial
from pathlib import Path

import torch

from checkpoints import layouts
from checkpoints.configs import read_ours, unix_config, vae_config
from checkpoints.folders import FILES, check_folder, find_checkpoint
from checkpoints.janus import absent_in_janus
from checkpoints.layouts import HF_JANUS, JANUS, KL_VAE, OURS, PUBLISHED, Layout
from checkpoints.plan import Plan, plan_for, translate_names
from checkpoints.tensors import PICKLES, PUBLISHED_FILES, Tensors, listed
from common.errors import UserError
from common.files import read_json
from model import UniX, UniXConfig
from vae import VAE, VAEConfig


def inspect(path: Path) -> None:
    """Print what a file, or each file of a folder, is. Raises UserError if a folder of ours is damaged."""
    path = find_checkpoint(path) or path
    if all((path / name).is_file() for name in FILES):
        manifest = check_folder(path)
        of = f", run {manifest['run']}, step {manifest['step']}" if "run" in manifest else ""
        count = len(manifest["files"])
        said = f"ok: {count} files as they were saved{of}" if count else "none: nothing to compare with"
        print(f"{path}\n  manifest {said}")
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
    config, plan = describe(tensors, layout)
    for part in filter(None, (config, getattr(config, "vit", None))):
        fields = ", ".join(f"{name} {value}" for name, value in vars(part).items() if name != "vit")
        print(f"  {type(part).__name__.removesuffix('Config'):8} {fields}")
    print(f"  loading  {plan}")
    for what in ("copied", "new", "skipped", "unknown"):
        if names := getattr(plan, what):
            print(f"  {what:8} {listed(sorted(names))}")


def describe(tensors: Tensors, layout: Layout) -> tuple[UniXConfig | VAEConfig | None, Plan]:
    """(the config of what trains here, what loading would do)."""
    path = tensors.path.parent / "config.json"
    given = read_json(path, absent={})
    if layout is KL_VAE:
        config = read_ours(given, path)[1] if "vae" in given else vae_config(tensors)
        return config, plan_for(lambda: VAE(config), tensors, layout.translate)
    if layout not in (OURS, PUBLISHED, JANUS, HF_JANUS):  # a judge
        return None, translate_names(tensors, layout.translate)
    config = read_ours(given, path)[0] if layout is OURS else unix_config(tensors, layout, given)
    absent = [partial(absent_in_janus, given=given)] if layout in (JANUS, HF_JANUS) else []
    return config, plan_for(lambda: UniX(config), tensors, layout.translate, *absent)
