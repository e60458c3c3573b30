"""The classifier of phantoms that ships, and the command that trains it.

    python -m judges.trained_classifier [--out FILE]     trains the one that ships

A judge that knows other phantoms, or that was made by another network, would score without a word of warning. So its
file says what it was made by, a hash of all code that has a part in the result, and that must be the code at hand.
"""

import ast
import hashlib
import inspect
import io
import json
import tokenize
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from checkpoints.tensors import warn
from common import arguments, observations
from common.errors import UserError, run
from common.files import SHIPPED, write_atomically
from judges import classifier
from judges.classifier import ClassifierRecipe, PhantomClassifier
from phantoms import dataset, drawing, truth

SHIPPED_CLASSIFIER = SHIPPED.parent / "classifier.safetensors"
MEND = "python -m judges.trained_classifier --out FILE trains another"


def load_classifier(file: Path = SHIPPED_CLASSIFIER, device: str = "cpu") -> PhantomClassifier:
    """In evaluation mode. Says so if other code than that at hand made it. Raises UserError if the file is none."""
    trained = PhantomClassifier()
    try:
        trained.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = shorten(str(error), 200, placeholder="...")  # torch names the tensors that are missing or too many
        raise UserError(f"--classifier {file}: not a classifier of ours ({reason}); {MEND}") from error
    if version_of(file) != fingerprint(ClassifierRecipe()):
        warn(f"--classifier {file}: for other phantoms, or of another version of judges/classifier.py; {MEND}")
    return trained.to(device).eval()


def fingerprint(recipe: ClassifierRecipe) -> str:
    """12 hex digits of all that decides what is learned: recipe, code that learns, code that renders."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for part in (classifier, drawing, truth, observations, dataset.phantom):
        digest.update(code_of(inspect.getsource(part)).encode())
    return digest.hexdigest()[:12]


def code_of(source: str) -> str:
    """Python source without what never runs: comments, docstrings, empty lines. The same under every Python."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def version_of(file: Path) -> str | None:
    """What a classifier's file was made by; None for a file that is absent or cannot be read."""
    try:
        with safe_open(file, framework="pt") as stored:
            return (stored.metadata() or {}).get("version")
    except (OSError, SafetensorError):
        return None


def main() -> None:
    parser = arguments.Parser(
        description="Train the classifier that judges phantoms (eight minutes on one core) and write it to FILE. "
        "evaluate.py phantom says so if the code that made its classifier is not the code at hand."
    )
    out = f"where to (default: {SHIPPED_CLASSIFIER.parent.name}/{SHIPPED_CLASSIFIER.name}, the shipped one)"
    parser.add_argument("--out", type=arguments.output_file, default=SHIPPED_CLASSIFIER, metavar="FILE", help=out)
    args = parser.parse_args()
    if args.out.exists() and version_of(args.out) is None:
        raise UserError(f"--out {args.out}: is there and no classifier of ours; delete it or name another file")
    recipe = ClassifierRecipe()
    with write_atomically(args.out) as temporary:
        temporary.touch()  # a folder that cannot be written to is said before minutes of training, not after them
        trained = classifier.train(recipe)
        tensors = {name: value.detach().cpu().contiguous() for name, value in trained.state_dict().items()}
        tensors |= {name: tensors[name].bfloat16() for name, _ in trained.named_parameters()}  # loses nothing
        metadata = {"version": fingerprint(recipe), "recipe": json.dumps(asdict(recipe))}
        save_file(tensors, temporary, metadata=metadata)
    print(f"wrote {args.out}, version {version_of(args.out)}")


if __name__ == "__main__":
    run(main)
