"""Tiny experiments of the tasks of language and generation, made from that of `cli_data`."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import cli_data
from tasks import code_tasks, masked_data

KINDS = (
    "language", "preference", "captions", "coca", "answering", "multimodal", "codes", "drawing",
)  # fmt: skip
_SIZES = {"vocab_size": 260, "dim": 16, "num_layers": 2, "num_heads": 2, "max_tokens": 99}
_MEMBERS: dict[str, dict[str, Any]] = {
    "preference": {"text": "txt", "answer": "json:place", "rejected": "json:captions"},
    "captions": {"image": "png", "text": "txt"},
    "coca": {"image": "png", "text": "txt"},
    "answering": {"image": "png", "text": "txt", "answer": "json:place"},
    "multimodal": {"image": "png", "audio": "flac", "text": "txt", "answer": "json:place"},
}


def experiment(values: dict[str, Any], kind: str, *, dropout: float = 0.1) -> dict[str, Any]:
    """Return the experiment of a kind with the data, trainer and other towers of `values`.

    ``drawing`` trains the tokenizer of its images first.
    """
    if kind == "language":
        return cli_data.language(values, dropout=dropout)
    if kind in ("masked", "codes", "drawing"):
        return values | _of_another_file(values, kind, dropout)
    given = values["model"]["init_args"]
    towers = {name: given["towers"][name] for name in _MEMBERS[kind] if name in given["towers"]}
    init = {name: given[name] for name in ("optimizer", "schedule")}
    short = {"sampling": {"max_new_tokens": 3}}
    sizes = {**_SIZES, "dropout": dropout}
    decoder = "transformer_decoder.TransformerDecoder"
    if kind in ("captions", "coca"):
        init |= {"token_dropout": dropout, **short}
        sizes["memory_dim"] = 16
    if kind == "coca":
        init["embed_dim"] = 8
        sizes["unimodal_layers"] = 1
        decoder = "coca_decoder.CocaDecoder"
    if kind == "multimodal":
        init |= {"modality_dropout": 3 * dropout, **short}
    if kind == "answering":
        fusion = {"fusion_dim": 8, "fusion_heads": 2}
        fusion |= dict.fromkeys(("modality_dropout", "fusion_dropout"), dropout)
        name = "mmlight.heads.fusion.TransformerFusion"
        init["fusion"] = {"class_path": name, "init_args": fusion}
    else:
        path = f"mmlight.decoders.{decoder}"
        towers["text"] = {"encoder": {"class_path": path, "init_args": sizes}}
    names = ["sea", "hill"] if kind in ("answering", "multimodal") else None
    task = {
        "captions": "captioning.Captioning",
        "multimodal": "multimodal_decoder.MultimodalDecoder",
    }.get(kind, f"{kind}.{kind.capitalize()}")
    changes = {
        "model": {
            "class_path": f"mmlight.tasks.{task}",
            "init_args": {**init, "towers": deepcopy(towers)},
        },
        "data.init_args.members": _MEMBERS[kind],
        "data.init_args.class_names": names,
    }
    for name in ("image", "audio"):
        if name not in _MEMBERS[kind]:
            changes[f"data.init_args.{name}"] = None
    return cli_data.changed(values, changes)


def _of_another_file(values: dict[str, Any], kind: str, dropout: float) -> dict[str, Any]:
    """Return the model and the data of an experiment that another file of tests makes."""
    data = Path(values["data"]["init_args"]["train"]["shards"]).parent
    runs = Path(values["run"]["root"])
    if kind == "masked":
        own = masked_data.experiment(data, runs)
    else:
        own = code_tasks.codes_experiment(data, runs)
    if kind == "drawing":
        path = cli_data.write_yaml(runs / "tokens.yaml", own)
        if not (runs / "tokens").exists():
            assert cli_data.run_in_process("fit", "-c", path) == 0
        own = code_tasks.drawing_experiment(data, runs, tokens=cli_data.only_run(runs, "tokens"))
        decoder = own["model"]["init_args"]["towers"]["text"]["encoder"]
        decoder["init_args"] = decoder["init_args"] | {"dropout": dropout}
    own["data"]["init_args"]["num_workers"] = values["data"]["init_args"]["num_workers"]
    return {name: own[name] for name in ("model", "data")}
