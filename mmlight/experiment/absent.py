"""An experiment whose files are not on this machine, as far as a model without numbers needs it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from mmlight.errors import UserError
from mmlight.experiment.build import Experiment
from mmlight.experiment.parser import parse
from mmlight.metrics.zero_shot import TEMPLATES
from mmlight.text.tokenizer import ByteTokenizer

# Tokenizers of files, and the setting that names the file.
_TOKENIZERS = {
    "mmlight.text.json_tokenizer.HfTokenizer": "path",
    "mmlight.text.clip_tokenizer.ClipTokenizer": "vocabulary",
}
_TIMM = ("mmlight.encoders.timm_image.TimmImage", "mmlight.encoders.mel_timm.MelTimm")
# What these name brings an architecture along.
_SOURCES = ("pretrained", "from_run", "from_pretrained")


def assemble_absent(arguments: Sequence[str]) -> tuple[Experiment, list[str]]:
    """Build the data and the task of an experiment of which some files are not here.

    A tokenizer, class names, templates and timm's weights that are not here are done without:
    sizes of a model do not depend on them. Nothing is fetched.

    Args:
        arguments: what `mmlight fit` takes.

    Returns:
        The experiment, and a line for each thing that was done without.

    Raises:
        UserError: as of `mmlight.experiment.build.assemble`; or an architecture would have to be
            fetched.
    """
    parsed = parse("fit", arguments)
    notes = list(_without_absent(parsed.config, ""))
    data = parsed.config["data"]["init_args"]
    if _is_absent(data["class_names"]):
        notes.append(f"not here: class names {data['class_names']}")
        data["class_names"] = None
    zero_shot = parsed.config["zero_shot"]
    templates = None if zero_shot is None else zero_shot["init_args"]["templates"]
    if _is_absent(templates) and templates not in TEMPLATES:
        notes.append(f"not here: templates {templates}")
        zero_shot["init_args"]["templates"] = "plain"
    return Experiment(parsed), notes


def _without_absent(node: Any, where: str) -> Iterator[str]:
    if isinstance(node, list):
        for place, one in enumerate(node):
            yield from _without_absent(one, f"{where}[{place}]")
    if not isinstance(node, Namespace | dict):
        return
    values = vars(node) if isinstance(node, Namespace) else node
    own = values.get("init_args")
    if isinstance(own, Namespace | dict):
        settings = vars(own) if isinstance(own, Namespace) else own
        path = settings.get(_TOKENIZERS.get(str(values.get("class_path")), ""))
        if _is_absent(path):
            yield (
                f"not here: tokenizer {path}; whether its vocabulary fits the text tower is not "
                "known, and that of bytes stands in for it"
            )
            values["class_path"] = f"{ByteTokenizer.__module__}.{ByteTokenizer.__qualname__}"
            values["init_args"] = Namespace()
            return
        if values.get("class_path") in _TIMM:
            yield from _without_weights(settings)
    for key, value in values.items():
        inside = f"{where}.{key}".replace(".init_args", "").removeprefix(".")
        if key in _SOURCES and _is_absent(value):
            raise UserError(
                f"{inside}: '{value}' is not here, and a dry run fetches nothing; describe the "
                "architecture (config of a class of transformers, name of a timm model), and name "
                "the weights in a further file that extends or follows this one"
            )
        yield from _without_absent(value, inside)


def _without_weights(settings: dict[str, Any]) -> Iterator[str]:
    name = settings["name"]
    if settings.get("pretrained") is True:
        settings["pretrained"] = False
        yield f"not fetched: timm's weights of {name}"
    if _is_absent(settings.get("weights")):
        yield f"not here: weights {settings['weights']} of {name}"
        settings["weights"] = None


def _is_absent(path: Any) -> bool:
    """Return whether a setting is a path of something that is not here."""
    return isinstance(path, str) and not Path(path).expanduser().exists()
