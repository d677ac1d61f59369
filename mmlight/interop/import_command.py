"""``mmlight import``: a published model as a folder of ours."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmlight.interop.export_command import check_out, export, made_whole
from mmlight.terminal import say


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight import``.

    Raises:
        UserError: the model cannot be read, or the folder is taken.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight import",
        description="Write a model of open_clip or transformers into a folder of ours: weights "
        "(safetensors), task and preprocessing (JSON), a card. `model.from_pretrained` takes the "
        "published model itself, too.",
    )
    parser.add_argument("source", help="a folder or a checkpoint of open_clip or transformers")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument(
        "--arch",
        help="what a checkpoint of open_clip without open_clip_config.json is of: a model's name "
        "(open_clip must be installed), or a file of its config",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    options = parser.parse_args(argv)
    check_out(options.out, overwrite=options.overwrite)
    with made_whole(options.out) as partial:
        export(options.source, partial, formats=[], key="import", arch=options.arch)
    say(f"import: {options.out}")
    return 0
