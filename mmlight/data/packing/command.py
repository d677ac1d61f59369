"""`mmlight shards pack`: its options, and which of them go with what there is to pack."""

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmlight.class_names import read_names
from mmlight.data.packing.coco import read_coco
from mmlight.data.packing.folder import read_folder
from mmlight.data.packing.hf_datasets import is_saved_dataset, read_saved_dataset
from mmlight.data.packing.source import Exclude, Given, Source
from mmlight.data.packing.table import read_box_table, read_table, split_column
from mmlight.data.packing.text_files import read_conll, read_lines
from mmlight.data.packing.voc import read_voc
from mmlight.data.packing.write import DEFAULT_SAMPLES_PER_SHARD, pack
from mmlight.data.shards.index_file import ShardIndex
from mmlight.errors import UserError
from mmlight.terminal import note

# What is packed, and the options that have an effect on it beside those for all.
_TAKES = {
    "a folder": (
        *("also_from", "exclude", "label_from_folder", "sample_from_folder", "class_names"),
    ),
    "a table": (
        *("also_from", "exclude", "encoding", "class_names", "images"),
        *("file", "member", "key", "label"),
    ),
    "a saved dataset": (
        *("also_from", "class_names", "images", "split", "member", "key", "label"),
    ),
    "--label-from-file": ("also_from", "exclude", "encoding", "class_names"),
    "--voc": ("also_from", "exclude", "class_names", "split"),
    "--coco": ("also_from", "exclude", "class_names", "images"),
    "--boxes": ("also_from", "exclude", "encoding", "class_names", "images"),
    "--conll": ("encoding", "words", "tags"),
}
_FORMS = ("label_from_file", "voc", "coco", "boxes", "conll")


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options, and what runs with them."""
    parser.set_defaults(write=run)
    add = parser.add_argument
    add(
        "source",
        type=Path,
        help="a folder of files, or one of the datasets library (save_to_disk); a .csv, .tsv, "
        ".jsonl, .parquet; or what is named below",
    )
    add("out", type=Path, help="the folder to write shards to")
    add("--samples-per-shard", type=int, default=DEFAULT_SAMPLES_PER_SHARD)
    add("--overwrite", action="store_true", help="replace shards of an earlier pack")
    add(
        "--resume",
        action="store_true",
        help="keep whole shards when it is stopped, and go on behind them the next time",
    )
    add("--shuffle-seed", type=int, help="permute the samples with this seed")
    add(
        *("--exclude",),
        action="append",
        default=[],
        metavar="GLOB",
        help="leave out files of this name, path or folder, and rows that name them",
    )
    add(
        *("--also-from",),
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="links and paths may lead into this folder too; otherwise only into the source's own",
    )
    add(
        *("--class-names",),
        type=Path,
        metavar="FILE",
        help="number the classes as this list does (the classnames.txt of the training shards)",
    )
    add("--encoding", help="of text files; default UTF-8, or as their byte-order mark says")
    forms = parser.add_argument_group("what the source is, where it is neither folder nor table")
    add = forms.add_mutually_exclusive_group().add_argument
    add("--label-from-folder", action="store_true", help="a folder for each class: cls, a number")
    add(
        *("--label-from-file",),
        action="store_true",
        help="a text file for each class, a sample in each line",
    )
    add("--voc", action="store_true", help="Pascal VOC: JPEGImages and Annotations, or .xml beside")
    add("--coco", action="store_true", help="COCO: a .json with images, annotations, categories")
    add(
        "--boxes", action="store_true", help="a table with a row for each box: file, corners, class"
    )
    add("--conll", action="store_true", help="columns of words and tags, sentences between blanks")
    more = parser.add_argument_group("more of these")
    more.add_argument(
        "--split",
        metavar="NAME",
        help="--voc: pictures of ImageSets/Main/NAME.txt; or a split of a saved dataset",
    )
    more.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="where paths of pictures and tables start from",
    )
    more.add_argument(
        "--sample-from-folder",
        action="store_true",
        help="the files of each folder are one sample: the frames of a video, members 001.jpg ...",
    )
    more.add_argument("--words", type=int, metavar="N", help="--conll: column of words, from 1")
    more.add_argument("--tags", type=int, metavar="N", help="--conll: column of tags; default last")
    table = parser.add_argument_group("columns of a table")
    table.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="[EXT=]COLUMN",
        help="paths of files, which become members named by their ending (or EXT)",
    )
    table.add_argument(
        "--member",
        action="append",
        default=[],
        metavar="EXT=COLUMN",
        help="the content of member EXT, such as txt=caption",
    )
    table.add_argument("--label", metavar="COLUMN", help="the class, number or name: becomes cls")
    table.add_argument("--key", metavar="COLUMN", help="unique sample keys")


def run(options: argparse.Namespace) -> list[ShardIndex]:
    """Pack; return the shards.

    Raises:
        UserError: options that do not go together, or anything wrong with what is packed.
    """
    names = ("samples_per_shard", "overwrite", "shuffle_seed", "resume")
    settings = {name: getattr(options, name) for name in names}
    return pack_source(_read(options), options.out, progress=True, **settings)


def pack_source(source: Source, out_dir: Path, **settings: Any) -> list[ShardIndex]:
    """Write shards (see `pack`) and ``classnames.txt``, and say what was left out."""

    def class_names() -> bytes | None:
        return (
            "".join(f"{name}\n" for name in source.class_names).encode(errors="surrogateescape")
            or None
        )

    shards = pack(source.samples, out_dir, class_names=class_names, **settings)
    for what, count in source.left_out.items():
        if count:
            note(f"left out: {count:,} {what}")
    return shards


def _read(options: argparse.Namespace) -> Source:
    form = next((name for name in _FORMS if getattr(options, name)), None)
    path: Path = options.source
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder or a table")
    kind = f"--{form.replace('_', '-')}" if form else "a folder" if path.is_dir() else "a table"
    if path.suffix == ".tar":
        raise UserError(f"{path} is a shard already; see mmlight shards merge --help")
    if kind == "a folder" and not options.label_from_folder and is_saved_dataset(path):
        kind = "a saved dataset"
    given = _check(options, kind)
    wants_folder = kind in ("a folder", "a saved dataset", "--label-from-file", "--voc")
    if wants_folder != path.is_dir():
        wanted = "a folder, not a file" if path.is_dir() else "a file, not a folder"
        raise UserError(f"{kind}: {path} is {wanted}")
    if "class_names" in given:
        given["class_names"] = read_names(str(options.class_names), what="--class-names: ")
    if "exclude" in given:
        given["exclude"] = Exclude(options.exclude)
    shared = Given(**{f.name: given.pop(f.name) for f in fields(Given) if f.name in given})
    match kind:
        case "a folder":
            return read_folder(path, shared, **given)
        case "a table" | "a saved dataset":
            members = dict(_parse_member(text) for text in options.member)
            if len(members) < len(options.member):
                raise UserError("--member: each extension may come once")
            given.pop("member", None)
            if kind == "a saved dataset":
                return read_saved_dataset(path, shared, members=members, **given)
            given |= {"members": members, "files": given.pop("file", [])}
            return read_table(path, shared, **given)
        case "--label-from-file":
            return read_lines(path, shared)
        case "--voc":
            return read_voc(path, shared, **given)
        case "--coco":
            return read_coco(path, shared)
        case "--boxes":
            return read_box_table(path, shared)
    return read_conll(path, shared, **given)


def _check(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the options that are given for a kind of source; refuse those for another."""
    given: Mapping[str, Any] = {
        name: value
        for name in dict.fromkeys(name for names in _TAKES.values() for name in names)
        if (value := getattr(options, name)) not in (None, [], False)
    }
    for name in given:
        if name not in _TAKES[kind]:
            known = [other for other, names in _TAKES.items() if name in names]
            raise UserError(
                f"--{name.replace('_', '-')} is for {' or '.join(known)}; the source is {kind}"
            )
    return dict(given)


def _parse_member(text: str) -> tuple[str, str]:
    extension, column = split_column(text)
    if not (extension and column):
        raise UserError(f"--member '{text}': write EXT=COLUMN, such as txt=caption")
    return extension, column
