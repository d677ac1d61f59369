"""Writes a data file, and experiments on it, for what `mmlight.data.own.look` has found."""

import math
from typing import Any

from mmlight import yaml_text
from mmlight.data.decode import probe
from mmlight.data.own.look import FoundData, command
from mmlight.modality import Modality

_TOWERS: dict[Modality, str] = {
    "image": "../towers/image_resnet_small.yaml",
    "text": "../towers/text_bytes.yaml",
    "audio": "../towers/audio_mel_resnet.yaml",
}
_RATE_HZ = 16000  # of the tower of sounds
_HELD_OUT = {"fold:5": 0}


def experiments(found: FoundData, *, name: str) -> dict[str, str]:
    """Return the files to write for data of a name, by path within the folder to begin in."""
    files = {f"experiments/data/{name}.yaml": _data_file(found, name)}
    if found.has_labels:
        inputs: list[Modality] = [m for m in found.members if m != "text"] or ["text"]
        files[f"experiments/finetune/{name}.yaml"] = _classifier(found, name, inputs)
        files[f"experiments/own/{name}_focal.yaml"] = _own_class(name)
    if len(found.members) > 1:
        files[f"experiments/pretrain/{name}.yaml"] = _contrastive(found, name)
    return files


def _shards(found: FoundData, name: str, split: str) -> str:
    return str(found.shards[split].resolve()) if found.shards else f"data/{name}/{split}"


def _data_file(found: FoundData, name: str) -> str:
    splits: dict[str, Any] = {
        split: {"shards": _shards(found, name, split)} for split in (found.shards or found.packs)
    }
    if "val" not in splits:
        # A fifth is held out, label by label, always the same samples.
        splits["val"] = {"shards": splits["train"]["shards"], "only": dict(_HELD_OUT)}
        splits["train"]["without"] = dict(_HELD_OUT)
    members: dict[str, Any] = {m: e[0] if len(e) == 1 else e for m, e in found.members.items()}
    values: dict[str, Any] = {
        "members": members | ({"label": "cls"} if found.has_labels else {}),
        **{split: splits[split] for split in ("train", "val", "test") if split in splits},
    }
    if found.has_names:
        values["class_names"] = f"{_names_folder(found, name)}/classnames.txt"
    if "image" in members:
        values["image"] = {"size": 64}
    if "text" in members:
        tokenizer = {"class_path": "mmlight.text.tokenizer.ByteTokenizer"}
        values["text"] = {"tokenizer": tokenizer, "max_tokens": 128}
    if "audio" in members:
        values["audio"] = {"sample_rate_hz": _RATE_HZ, "max_seconds": _seconds(found)}
    values["global_batch_size"] = _batch_size(found)
    values["eval_batch_size"] = 64
    made = "".join(
        f"# Made by: {command('shards', 'pack', source, f'data/{name}/{split}', *options)}\n"
        for split, (source, *options) in found.packs.items()
    )
    class_path = "mmlight.data.module.ShardDataModule"
    text = yaml_text.dump({"data": {"class_path": class_path, "init_args": values}})
    return f"# Purpose: {found.summary()}.\n{made}{text}"


def _num_trained(found: FoundData) -> int:
    held_out = "val" not in (found.shards or found.packs)
    return found.sizes["train"] * (4 if held_out else 5) // 5


def _batch_size(found: FoundData) -> int:
    """Return a batch that leaves at least four steps an epoch, however few samples there are."""
    return int(2 ** max(1, min(6, int(math.log2(max(_num_trained(found), 8) / 4)))))


def _names_folder(found: FoundData, name: str) -> str:
    if not found.shards:
        return f"data/{name}/train"
    folders = [found.path, *found.shards.values()]
    return str(next(f for f in folders if (f / "classnames.txt").is_file()).resolve())


def _seconds(found: FoundData) -> float:
    example = found.example.get("audio")
    known = probe.duration_s(example.read_bytes()) if example else math.nan
    return min(10.0, max(1.0, math.ceil(known))) if math.isfinite(known) else 5.0


def _classifier(found: FoundData, name: str, inputs: list[Modality]) -> str:
    data: dict[str, Any] = {}
    if unread := [m for m in found.members if m not in inputs]:
        data = {"data": {"init_args": {"members": dict.fromkeys(unread), **dict.fromkeys(unread)}}}
    return _experiment(
        found,
        name,
        f"the class of {' and '.join(inputs)}",
        f"experiments/finetune/{name}.yaml",
        towers=inputs,
        model={
            "class_path": "mmlight.tasks.classification.Classification",
            "init_args": {"optimizer": {"lr": 1.0e-3, "weight_decay": 0.05}},
        },
        monitor="val/accuracy",
        more=data,
    )


def _contrastive(found: FoundData, name: str) -> str:
    modalities = list(found.members)
    first, second = modalities[:2]
    return _experiment(
        found,
        name,
        f"one space for {', '.join(modalities)}",
        f"experiments/pretrain/{name}.yaml",
        towers=modalities,
        model={
            "class_path": "mmlight.tasks.contrastive.Contrastive",
            "init_args": {"embed_dim": 128, "optimizer": {"lr": 1.0e-3, "weight_decay": 0.1}},
        },
        monitor=f"val/{first}_to_{second}/recall_at_1",
    )


def _experiment(
    found: FoundData,
    name: str,
    purpose: str,
    path: str,
    *,
    towers: list[Modality],
    model: dict[str, Any],
    monitor: str,
    more: dict[str, Any] | None = None,
) -> str:
    header = (
        f"# Purpose: {purpose}, from random weights.\n"
        f"# Command: {command('fit', '-c', path)}\n"
        "# Hardware: any machine.\n"
    )
    values: dict[str, Any] = {
        # The data file last: what is said of the samples counts, not what suits a tower.
        "extends": [
            "../base/cpu.yaml",
            *(_TOWERS[modality] for modality in towers),
            f"../data/{name}.yaml",
        ],
        "seed_everything": 0,
        "trainer": {
            "max_epochs": 10,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": max(1, min(10, _num_trained(found) // _batch_size(found))),
        },
        "checkpoint": {"monitor": monitor},
        "model": model,
    }
    return header + yaml_text.dump(values | (more or {}))


def _own_class(name: str) -> str:
    header = (
        "# Purpose: the same with a loss of one's own, a class in my_module.py.\n"
        f"# Command: {command('fit', '-c', f'experiments/own/{name}_focal.yaml')}\n"
        "# Hardware: any machine.\n"
    )
    objective = {"class_path": "my_module.Focal", "init_args": {"gamma": 2.0}}
    values = {
        "import": "my_module",
        "extends": [f"../finetune/{name}.yaml"],
        "model": {"init_args": {"objective": objective}},
    }
    return header + yaml_text.dump(values)
