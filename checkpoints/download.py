"""Published weights by name, from the Hub: the files that our loader reads and no others, each checked."""

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from checkpoints.folders import sha256
from checkpoints.inspection import inspect
from common.errors import UserError
from common.ownership import own_folder

MODEL = ("*.safetensors", "*.bin", "*.index.json", "config.json", "tokenizer.json", "*_config.json")
BIOVIL = ("*.bin", "*.pt", "config.json", "vocab.txt")
HUB = {  # name -> repository, revision, which of its files are read, and what to type when they are there
    "unix": ("ZrH42/UniX", "main", (*MODEL, "vae/*"), 'python sample.py "Edema." --weights {}'),
    "kl-f16": ("ZrH42/UniX", "main", ("vae/*",), "python weights.py convert JANUS weights/start --vae {}/vae/FILE"),
    "janus-pro-1b": ("deepseek-community/Janus-Pro-1B", "main", MODEL, "python sample.py --image FILE --weights {}"),
    "raddino": ("microsoft/rad-dino", "main", MODEL, "python train.py --stage 2 --repa {}"),
    # CheXbert's own file, chexbert.pth, lies beside https://github.com/stanfordmlgroup/CheXbert alone.
    "bert": ("google-bert/bert-base-uncased", "main", ("vocab.txt",), "put chexbert.pth beside it, then --chexbert {}"),
    "biovil-t": ("microsoft/BiomedVLP-BioViL-T", "v1.0", BIOVIL, "python evaluate.py image --aligner {} ..."),
}


def download(name: str, folder: Path) -> None:
    """Fetch a name of HUB into a folder, where an interrupted download goes on. It says size and licence first;
    HF_ENDPOINT, HF_TOKEN and their like are huggingface_hub's. Raises UserError."""
    from huggingface_hub import HfApi, hf_hub_download  # 0.2 s that no other command of weights.py waits for

    repository, revision, patterns, then = HUB[name]
    page = f"https://huggingface.co/{repository}"
    by_hand = f"type the command again, or put {', '.join(patterns)} of {page} into {folder} by hand"
    about = asked(page, by_hand, HfApi().model_info, repository, revision=revision, files_metadata=True)
    wanted = [file for file in about.siblings if any(fnmatch(file.rfilename, pattern) for pattern in patterns)]
    if any(file.rfilename.endswith(".safetensors") for file in wanted):  # the same weights once more
        wanted = [file for file in wanted if not file.rfilename.endswith((".bin", ".bin.index.json"))]
    size, licence = sum(file.size for file in wanted), (about.card_data or {}).get("license", "not named")
    print(f"{page} at {about.sha}: {len(wanted)} files, {size / 1e9:,.2f} GB; licence: {licence}", flush=True)
    own_folder(folder)
    if size > shutil.disk_usage(folder).free:
        raise UserError(f"{folder}: {size / 1e9:,.1f} GB do not fit there; make room, or name another folder")
    for file in wanted:
        fetch = (hf_hub_download, repository, file.rfilename)
        path = Path(asked(page, by_hand, *fetch, revision=about.sha, local_dir=folder))
        if path.stat().st_size != file.size or (file.lfs and sha256(path) != file.lfs.sha256):
            path.unlink()
            raise UserError(f"{path}: is not what {page} describes; it was deleted, type the command again")
    if name != "bert":
        inspect(folder)
    print(f"next: {then.format(folder)}")


def asked(page: str, by_hand: str, question: Callable, *words: str, **more: object) -> object:
    """The hub's answer to a question; what goes wrong raises UserError in a line."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return question(*words, **more)
    except GatedRepoError:
        consent = "asks for your consent; give it there, then set HF_TOKEN to a token of yours"
        raise UserError(f"{page}: {consent}") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise UserError(f"{page}: is not there any more ({str(error).splitlines()[0]})") from None
    except Exception as error:  # what the hub's own network library raises changes from release to release
        problem = f"was not fetched ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise UserError(f"{page}: {problem}; {by_hand}") from error
