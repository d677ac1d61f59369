"""Sets in CLIP_benchmark's layout and of other members, of the tiny coloured squares."""

import io
import json
import tarfile
from pathlib import Path

import cli_data
import numpy as np
import yaml

PROMPTS = ["a photo of a {c}.", "one {c} square"]


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path


def made(number: int, *names: str) -> dict[str, bytes]:
    sample = cli_data.make_sample(number)
    return {name: sample[name] for name in names}


def layout(folder: Path, kind: str | None = None) -> Path:
    """Write a folder as CLIP_benchmark does: train of 40 samples in two shards, test of 20."""
    for split, shards in {"train": (range(20), range(20, 40)), "test": (range(50, 70),)}.items():
        for number, numbers in enumerate(shards):
            samples = {f"s{n:04d}": _members(n, kind) for n in numbers}
            write_tar(folder / split / f"{number}.tar", samples)
        (folder / split / "nshards.txt").write_text(f"{len(shards)}\n")
    (folder / "classnames.txt").write_text("\n".join(cli_data.COLOURS) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(PROMPTS) + "\n")
    if kind:
        (folder / "dataset_type.txt").write_text(f"{kind}\n")
    return folder


def _members(number: int, kind: str | None) -> dict[str, bytes]:
    if kind == "retrieval":
        captions = json.loads(cli_data.make_sample(number)["json"])["captions"]
        return made(number, "png") | {"txt": "\n".join(captions).encode()}
    if kind == "multilabel":
        target = np.zeros(len(cli_data.COLOURS))
        target[[number % 4, number % 3]] = 1
        buffer = io.BytesIO()
        np.save(buffer, target)
        return made(number, "png") | {"npy": buffer.getvalue()}
    return made(number, "png", "cls")


def pairs(folder: Path) -> Path:
    """Write pictures with a right caption, two wrong ones, and a second picture with its own."""
    names = list(cli_data.COLOURS)
    samples = {}
    for n in range(12):
        one, other = cli_data.make_sample(n), cli_data.make_sample(n + 1)
        about = {
            "caption": f"a {names[n % 4]} one",
            "wrong": [f"a {names[(n + 1) % 4]} one", f"a {names[(n + 2) % 4]} one"],
            "other": f"a {names[(n + 1) % 4]} one",
        }
        samples[f"p{n:02d}"] = {
            "image_0.png": one["png"],
            "image_1.png": other["png"],
            "json": json.dumps(about).encode(),
        }
    return write_tar(folder / "0.tar", samples).parent


def write_suite(path: Path, sets: dict, **values: object) -> Path:
    path.write_text(yaml.safe_dump({"sets": sets, "draws": 200, **values}))
    return path
