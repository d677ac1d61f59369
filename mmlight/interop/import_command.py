"""``mmlight import``: a published model as a folder of ours."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmlight.hub_name import hub_name
from mmlight.interop.export_command import check_out, export, made_whole
from mmlight.interop.model_card import write_card
from mmlight.interop.single_encoder import is_single_encoder, read_encoder
from mmlight.published.hub import fetch_model
from mmlight.saved.checkpoint import Saved, write_export
from mmlight.saved.locate import Found
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight import``.

    Raises:
        UserError: the model cannot be read, or the folder is taken.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight import",
        description="Write a model of open_clip, transformers or timm, two aligned towers or a "
        "single encoder, into a folder of ours: weights "
        "(safetensors), task and preprocessing (JSON), a card. `model.from_pretrained` takes the "
        "published model itself, too.",
    )
    parser.add_argument("source", help="a folder or a checkpoint, or OWNER/NAME on the hub")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument(
        "--arch",
        help="what a checkpoint of open_clip without open_clip_config.json is of: a model's name "
        "(open_clip must be installed), or a file of its config",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    options = parser.parse_args(argv)
    check_out(options.out, overwrite=options.overwrite, key="import: ")
    name = hub_name(options.source)
    source = Path(options.source).expanduser() if name is None else fetch_model(name, key="import")
    with made_whole(options.out) as partial:
        if options.arch is None and is_single_encoder(source, key="import"):
            _write_encoder(source, partial)
        else:
            export(source, partial, formats=[], key="import", arch=options.arch)
    say(f"import: {options.out}")
    return 0


def _write_encoder(source: Path, out: Path) -> None:
    task = read_encoder(source, key="import")
    write_export(out, Saved(task.rebuild_description(), task.preprocessing, task.state_dict()))
    found = Found(source, "export", None)
    write_card(out / "README.md", task, found, [], num_merged=0, meanings={})
