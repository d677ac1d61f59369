"""Descriptions and preprocessings of a task that somebody made to run, import, read or fetch.

Each is a change to those of an honest checkpoint. What runs makes the file `ran`; what is imported
is the module `canary_module`, which does so too; what is read is `bait.yaml` or `bait.txt`.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

CANARY = """
from pathlib import Path

from mmlight.encoders.timm_image import TimmImage

Path({ran!r}).touch()


class Enc(TimmImage):
    pass


def func(*args, **kwargs):
    return Enc("resnet10t")
"""

Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def lay_bait(folder: Path) -> Path:
    """Write the module and the files; return the file that must not appear."""
    ran = folder / "ran"
    (folder / "canary_module.py").write_text(CANARY.format(ran=str(ran)))
    (folder / "bait.yaml").write_text(
        f"class_path: os.system\ninit_args: {{command: touch {ran}}}\n"
    )
    (folder / "bait.txt").write_text("bait\n")
    return ran


def put(description: dict[str, Any], place: str, value: Any) -> None:
    """Set an entry deep inside of ``init_args``."""
    *path, last = place.split(".")
    inside = description["init_args"]
    for part in path:
        inside = inside[part]
    inside[last] = value


def at(place: str, value: Any) -> Change:
    return lambda described, prepared: put(described, place, value)


def call(path: Any, /, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def prepare(key: str, value: Any) -> Change:
    return lambda described, prepared: prepared.__setitem__(key, value)


def changes(folder: Path) -> dict[str, Change]:
    """Return what is done to an honest description and preprocessing, by name."""
    ran, bait = str(folder / "ran"), str(folder / "bait.yaml")
    touch = f"touch {ran}"
    code = f"open({ran!r}, 'w')"
    evil = call("os.system", command=touch)
    image, objective = "towers.image.encoder", "objective"
    timm, text = "towers.image.encoder.init_args", "towers.text.encoder.init_args"
    found: dict[str, Change] = {}
    functions = {
        "os.system": call("os.system", command=touch),
        "posix.system": call("posix.system", command=touch),
        "os.mkdir": call("os.mkdir", path=ran),
        "getoutput": call("subprocess.getoutput", cmd=touch),
        "Popen": call("subprocess.Popen", args=["touch", ran]),
        "subprocess.run": call("subprocess.run", args=["touch", ran]),
        "eval": call("builtins.eval", source=code),
        "exec": call("builtins.exec", source=code),
        "open": call("builtins.open", file=ran, mode="w"),
        "__import__": call("builtins.__import__", name="canary_module"),
        "import_module": call("importlib.import_module", name="canary_module"),
        "run_module": call("runpy.run_module", mod_name="canary_module"),
        "run_path": call("runpy.run_path", path_name=str(folder / "canary_module.py")),
        "torch.load": call("torch.load", f=ran, weights_only=False),
        "torch.save": call("torch.save", obj=1, f=ran),
        "torch.hub.load": call("torch.hub.load", repo_or_dir=str(folder), model="x"),
        "cpp_extension": call("torch.utils.cpp_extension.load", name="x", sources=[ran]),
        "CDLL": call("ctypes.CDLL", name=str(folder / "x.so")),
        "rmtree": call("shutil.rmtree", path=str(folder)),
        "Path": call("pathlib.Path"),
        "partial": call("functools.partial", func="os.system"),
        "ours alias": call("mmlight.files.os.system", command=touch),
        "ours write": call("mmlight.files.write_text", path=ran, text="x"),
        "ours json": call("mmlight.files.write_json", path=ran, value="x"),
        "ours start": call("mmlight.__main__.main", argv=["scenes", ran]),
        "ours git": call("mmlight.runs.code.git.subprocess.run", args=["touch", ran]),
        "ours loads": call("mmlight.tasks.load.load_task", path=bait),
        "ours makes": call("mmlight.encoders.timm_model.create_timm", name="resnet10t"),
        "module class": call("canary_module.Enc"),
        "module function": call("canary_module.func"),
        "no class_path": call(None),
        "list class_path": call(["os.system"], command=touch),
        "odd path": call("os..system", command=touch),
        "escapes": call("os.system\n\x1b[31mred", command=touch),
    }
    for name, described in functions.items():
        found[f"encoder: {name}"] = at(image, described)
        found[f"objective: {name}"] = at(objective, described)
    others = {
        "task": lambda described, prepared: described.update(evil),
        "task init_args": lambda described, prepared: described.update(init_args="os.system"),
        "another kind": at(image, call("mmlight.objectives.clip.Clip")),
        "another name": at(image, call("mmlight.encoders.hf_text.Encoder")),
        "abstract": at(image, call("mmlight.encoders.encoder.Encoder")),
        "of torch": at(objective, call("torch.nn.Identity")),
        "nested": at(f"{timm}.img_size", evil),
        "nested in plain values": at(f"{timm}.kwargs.act_layer", evil),
        "nested in a list": at(f"{timm}.mean", [evil, evil, evil]),
        "nested in settings": at("optimizer", {"lr": evil}),
        "settings as a class": at("optimizer", evil),
        "schedule": at("schedule", evil),
        "tuning": at("tuning", evil),
        "towers": at("towers", evil),
        "a tower": at("towers.image", evil),
        "string": at(image, "canary_module.Enc"),
        "string of a function": at(objective, "os.system"),
        "string of ours": at(image, "mmlight.encoders.timm_image.TimmImage"),
        "string of JSON": at(objective, f'{{"class_path": "builtins.eval", "source": "{code}"}}'),
        "string of YAML": at("optimizer", "class_path: canary_module.Enc"),
        "string of a file": at(objective, bait),
        "string of a file of settings": at("optimizer", bait),
        "string of a tower": at("towers.image", bait),
        "string with @": at(objective, f"@{bait}"),
        "string with $": at(objective, "${oc.env:HOME}"),
        "string for a number": at("embed_dim", "8"),
        "dotted": lambda described, prepared: described["init_args"].update(
            {"objective.class_path": "canary_module.func"}
        ),
        "dotted deep": lambda described, prepared: described["init_args"].update(
            {"towers.image.encoder.class_path": "canary_module.Enc"}
        ),
        "dotted class": lambda described, prepared: described.update(
            {"init_args.objective.class_path": "os.system"}
        ),
        "dict_kwargs": lambda described, prepared: described.update(
            {"dict_kwargs": {"objective": evil}}
        ),
        "from_run": at("towers.image.from_run", str(folder)),
        "changes": lambda described, prepared: described["init_args"]["towers"]["image"].update(
            from_run=str(folder), changes=evil
        ),
        "weights file": at(f"{timm}.weights", bait),
        "pretrained": at(f"{timm}.pretrained", True),
        "timm hub": at(f"{timm}.name", "hf-hub:evil/model"),
        "timm folder": at(f"{timm}.name", f"local-dir:{folder}"),
        "timm file": at(f"{timm}.kwargs", {"checkpoint_path": bait}),
        "timm config": at(f"{timm}.kwargs", {"pretrained_cfg": {"file": bait}}),
        "config folder": at(f"{text}.config", str(folder)),
        "text of the hub": lambda described, prepared: put(
            described, text, {"pretrained": "evil/model"}
        ),
        "remote code": at(f"{text}.config.auto_map", {"AutoModel": "evil/model--m.M"}),
        "kernels": at(f"{text}.config._attn_implementation", "kernels-community/flash-attn"),
        "timm in transformers": at(
            f"{text}.config",
            {
                "model_type": "timm_wrapper",
                "architecture": "resnet10t",
                "model_args": {"checkpoint_path": bait},
            },
        ),
        "several models": at(
            f"{text}.config", {"model_type": "vision-encoder-decoder", "sub_configs": {}}
        ),
        "class names": prepare("class_names", str(folder / "bait.txt")),
        "image settings": prepare("image", bait),
        "image setting": lambda described, prepared: prepared["image"].update(size=evil),
        "text settings": prepare("text", bait),
        "text setting": lambda described, prepared: prepared["text"].update(max_tokens=evil),
        "tokenizer": lambda described, prepared: prepared["text"].update(
            tokenizer=call("mmlight.text.json_tokenizer.HfTokenizer", path=str(folder))
        ),
    }
    return found | others


def spoil(change: Change, description: dict[str, Any], prepared: dict[str, Any]) -> tuple[Any, Any]:
    """Return a description and a preprocessing, changed."""
    both = deepcopy(description), deepcopy(prepared)
    change(*both)
    return both
