"""Published weights by name, from the Hub: the files that our loader reads and no others, each checked."""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from checkpoints.folders import sha256
from checkpoints.inspection import inspect
from common.errors import UserError
from common.ownership import own_folder


class Published(NamedTuple):
    """Where a name's files lie, which of them are read, and what to type when they are there."""

    repository: str
    revision: str
    files: tuple[str, ...]
    then: str


MODEL = ("*.safetensors", "*.bin", "*.index.json", "config.json", "tokenizer.json", "*_config.json")
BIOVIL = ("*.bin", "*.pt", "config.json", "vocab.txt")
PUBLISHED = {
    "unix": Published("ZrH42/UniX", "main", (*MODEL, "vae/*"), 'python sample.py "Edema." --weights {}'),
    "kl-f16": Published(
        "ZrH42/UniX", "main", ("vae/*",), "python weights.py convert JANUS weights/start --vae {}/vae/FILE"
    ),
    "janus-pro-1b": Published(
        "deepseek-community/Janus-Pro-1B", "main", MODEL, "python sample.py --image FILE --weights {}"
    ),
    "raddino": Published("microsoft/rad-dino", "main", MODEL, "python train.py --stage 2 --repa {}"),
    # CheXbert's own file, chexbert.pth, lies beside https://github.com/stanfordmlgroup/CheXbert alone.
    "bert": Published(
        "google-bert/bert-base-uncased", "main", ("vocab.txt",), "put chexbert.pth beside it, then --chexbert {}"
    ),
    "biovil-t": Published("microsoft/BiomedVLP-BioViL-T", "v1.0", BIOVIL, "python evaluate.py image --aligner {} ..."),
}


def download(name: str, folder: Path) -> None:
    """Fetch a name of PUBLISHED into a folder, where an interrupted download goes on. It says size and licence first;
    HF_ENDPOINT, HF_TOKEN and their like are huggingface_hub's. Raises UserError."""
    repository, revision, patterns, then = PUBLISHED[name]
    page = f"https://huggingface.co/{repository}"
    try:
        about = HfApi().model_info(repository, revision=revision, files_metadata=True)
        wanted = {file.rfilename: file for file in about.siblings if any(fnmatch(file.rfilename, p) for p in patterns)}
        if any(file.endswith(".safetensors") for file in wanted):  # the same weights once more
            wanted = {file: found for file, found in wanted.items() if not file.endswith((".bin", ".bin.index.json"))}
        size, licence = sum(file.size for file in wanted.values()), (about.card_data or {}).get("license", "not named")
        print(f"{page} at {about.sha}: {len(wanted)} files, {size / 1e9:,.2f} GB; licence: {licence}", flush=True)
        own_folder(folder)
        if size > shutil.disk_usage(folder).free:
            raise UserError(f"{folder}: {size / 1e9:,.1f} GB do not fit there; make room, or name another folder")
        for file, found in wanted.items():
            path = Path(hf_hub_download(repository, file, revision=about.sha, local_dir=folder))
            right = found.lfs.sha256 if found.lfs else None
            if path.stat().st_size != found.size or (right and sha256(path) != right):
                path.unlink()
                raise UserError(f"{path}: is not what {page} describes; it was deleted, type the command again")
    except GatedRepoError:
        raise UserError(
            f"{page}: asks for your consent; give it there, then set HF_TOKEN to a token of yours"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise UserError(f"{page}: is not there any more ({str(error).splitlines()[0]})") from None
    except UserError:
        raise
    except Exception as error:  # what the hub's own network library raises changes from release to release
        mend = f"type the command again, or put {', '.join(patterns)} of {page} into {folder} by hand"
        raise UserError(
            f"{name}: was not fetched ({type(error).__name__}: {str(error).splitlines()[0]}); {mend}"
        ) from error
    if name != "bert":
        inspect(folder)
    print(f"next: {then.format(folder)}")
