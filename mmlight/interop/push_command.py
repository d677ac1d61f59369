"""``mmlight push``: a trained model into a repository of a hub, with its card."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmlight.errors import UserError
from mmlight.hub_name import HubName
from mmlight.interop.export_command import PUBLISHED_FORMATS, export
from mmlight.published.hub import push_folder
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight push``."""
    parser = argparse.ArgumentParser(
        prog="mmlight push",
        description="Put a model into a repository on the Hugging Face hub (or at HF_ENDPOINT): "
        "weights, config, tokenizer and preprocessing, and a card with the run's scores. "
        "`from_run`, `from_pretrained` and the embedder take OWNER/NAME as they take a folder. "
        "HF_TOKEN must be set to a token that may write there.",
    )
    parser.add_argument("source", help="a run's folder, a checkpoint, an exported folder")
    parser.add_argument("repository", help="OWNER/NAME, or OWNER/NAME@BRANCH; made if need be")
    parser.add_argument(
        "--format",
        choices=["mmlight", *PUBLISHED_FORMATS],
        default="mmlight",
        help="the form of the files (default: mmlight's own)",
    )
    parser.add_argument(
        "--private", action="store_true", help="nobody else sees a repository that is made"
    )
    parser.add_argument("--message", help="of the commit (default: what is put there)")
    parser.add_argument(
        "--import", metavar="MODULE", help="a module of your own whose classes it may name"
    )
    options = parser.parse_args(argv)
    name = _repository(options.repository)
    with tempfile.TemporaryDirectory(prefix="mmlight-push-") as made:
        whole = Path(made)
        export(options.source, whole, formats=[f for f in PUBLISHED_FORMATS if f == options.format])
        folder = whole / options.format if options.format in PUBLISHED_FORMATS else whole
        card = (whole / "README.md").read_text(encoding="utf-8")
        (folder / "README.md").write_text(_complete(card, name, options.format), "utf-8")
        source = Path(options.source).name
        address = push_folder(
            folder,
            name,
            private=options.private,
            message=options.message or f"mmlight push of {source}",
            key="push",
        )
    say(f"push: {address}")
    return 0


def _repository(given: str) -> HubName:
    # Whether a folder of this name is here does not matter: it is not read.
    repository, _, revision = given.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"push: {given} is no repository; name it OWNER/NAME")
    return HubName(repository, revision or None)


def _complete(card: str, name: HubName, library: str) -> str:
    """Say what the hub wants to know of a model, and where it lies."""
    at = name.repository if name.revision is None else f"{name.repository}@{name.revision}"
    head = f"---\nlibrary_name: {library}\ntags:\n- mmlight\n---\n\n"
    return head + card.replace("FOLDER", at)
