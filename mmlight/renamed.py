"""What earlier versions called classes and settings, so that their files still load.

Experiments and checkpoints name classes by their full path and settings by their keyword. Where one
of them got another name, it stands here, and in the change log.
"""

from collections.abc import Mapping
from typing import Any

# Full paths: of a class, or of a module for all its classes.
CLASSES: dict[str, str] = {
    "mmlight.data.audio": "mmlight.data.decode.audio",
    "mmlight.data.corruptions": "mmlight.data.decode.corruptions",
    "mmlight.data.files": "mmlight.data.splits.plain_files",
    "mmlight.data.image": "mmlight.data.decode.image",
    "mmlight.data.saved_tokenizer": "mmlight.text.saved_tokenizer",
    "mmlight.data.split": "mmlight.data.splits.split",
    "mmlight.data.text.HfTokenizer": "mmlight.text.json_tokenizer.HfTokenizer",
    "mmlight.data.tokenizer": "mmlight.text.tokenizer",
    "mmlight.data.tokenizer.JsonTokenizer": "mmlight.text.json_tokenizer.JsonTokenizer",
    "mmlight.data.tokenizer_char": "mmlight.text.tokenizer",
    "mmlight.strategies.ddp": "mmlight.trainer.ddp",
    "mmlight.strategies.fsdp": "mmlight.trainer.fsdp",
    "mmlight.callbacks.early_stopping": "mmlight.trainer.early_stopping",
    "mmlight.callbacks.ema": "mmlight.trainer.ema",
    "mmlight.callbacks.embeddings": "mmlight.callbacks.recording.embeddings",
    "mmlight.callbacks.errors_table": "mmlight.callbacks.showing.errors_table",
    "mmlight.callbacks.explain": "mmlight.callbacks.showing.explain",
    "mmlight.callbacks.pictures": "mmlight.callbacks.showing.pictures",
    "mmlight.callbacks.predictions": "mmlight.callbacks.recording.predictions",
    "mmlight.callbacks.probe": "mmlight.callbacks.measuring.probe",
    "mmlight.callbacks.progress": "mmlight.callbacks.showing.progress",
    "mmlight.callbacks.throughput": "mmlight.callbacks.measuring.throughput",
    "mmlight.callbacks.zero_shot": "mmlight.callbacks.measuring.zero_shot",
}
# The class by its present path: what its settings were called, what they are called now.
SETTINGS: dict[str, dict[str, str]] = {}


def present_path(path: str) -> str:
    """Return what a class, given by its full path, is called now."""
    if path in CLASSES:
        return CLASSES[path]
    module, _, name = path.rpartition(".")
    return f"{CLASSES[module]}.{name}" if module in CLASSES else path


def present_names(value: Any) -> Any:
    """Return plain values of a configuration or description with the present names in them.

    Args:
        value: any plain value; where a mapping has a `class_path`, that path and the keys of its
            `init_args` are looked up. Nothing is changed in place.
    """
    if isinstance(value, list):
        return [present_names(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    made = {key: present_names(item) for key, item in value.items()}
    path, given = made.get("class_path"), made.get("init_args")
    if isinstance(path, str):
        made["class_path"] = path = present_path(path)
        if isinstance(given, dict) and path in SETTINGS:
            names = SETTINGS[path]
            made["init_args"] = {names.get(key, key): item for key, item in given.items()}
    return made
