"""Builds models of transformers from a config or a checkpoint."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPTextModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2TextModel,
    SiglipTextModel,
)
from transformers.utils import logging

from mmlight.encoders.timm_model import some
from mmlight.errors import UserError, nearest
from mmlight.hub_name import check_hub_name

_NO_FIELDS = ("transformers_version", "architectures", "dtype")
# Fields of older releases, with the value that is all that today's classes do.
_FORMER = {"gradient_checkpointing": False, "position_embedding_type": "absolute"}
_TEXT_TOWERS: dict[str, Any] = {
    "clip_text_model": CLIPTextModel,
    "siglip_text_model": SiglipTextModel,
    "siglip2_text_model": Siglip2TextModel,
}
# Where a checkpoint says how its inputs are prepared.
SAID = ("preprocessor_config.json", "processor_config.json")


def read_source(
    config: dict[str, Any] | str | None, pretrained: str | None, *, changes: dict[str, Any] | None
) -> tuple[Any, str]:
    """Return the config that exactly one of two settings says, and which of them.

    Args:
        config: as for `read_config`.
        pretrained: folder or hub id of a checkpoint.
        changes: as for `read_config`.

    Raises:
        UserError: both or neither of them is set, or as `read_config`.
    """
    if (config is None) == (pretrained is None):
        what = "neither is" if config is None else "both are"
        raise UserError(f"set exactly one of config and pretrained; {what} set")
    if config is not None:
        return read_config(config, key="config", changes=changes), "config"
    return read_config(str(pretrained), key="pretrained", changes=changes), "pretrained"


def read_config(source: dict[str, Any] | str, *, key: str, changes: dict[str, Any] | None) -> Any:
    """Return a model's config.

    Args:
        source: a dict with ``model_type`` and whatever differs from the type's defaults, or a
            folder (or hub id) with a ``config.json``.
        key: the setting that holds it, for messages.
        changes: fields to set on top of it.

    Raises:
        UserError: no such type, folder or field.
    """
    if isinstance(source, dict):
        fields = dict(source)
        model_type = fields.pop("model_type", None)
        if model_type is None:
            raise UserError(f"{key}: needs a model_type, such as bert or clip_text_model")
        # What a config that was saved says about its origin is no field of the class.
        for name in _NO_FIELDS:
            fields.pop(name, None)
        for name, value in _FORMER.items():
            if fields.get(name) == value:
                del fields[name]
        try:
            default = _default_config(model_type)
        except ValueError as error:
            from transformers import CONFIG_MAPPING

            raise UserError(
                f"{key}.model_type: transformers has no '{model_type}'"
                f"{nearest(str(model_type), CONFIG_MAPPING)}"
            ) from error
        _check_fields(fields, default, key=key)
        _check_fields(changes or {}, default, key=f"changes to {key}")
        try:
            return AutoConfig.for_model(model_type, **(fields | (changes or {})))
        except (ValueError, TypeError) as error:
            raise UserError(f"{key}: {' '.join(str(error).split())}") from error
    check_hub_name(str(source), key=key)
    try:
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        _check_fields(changes or {}, config, key=f"changes to {key}")
        if changes:
            config = AutoConfig.from_pretrained(str(source), trust_remote_code=False, **changes)
        return config
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: no config at '{source}': {_first_line(error)}") from error


def _check_fields(fields: dict[str, Any], config: PreTrainedConfig, *, key: str) -> None:
    known = set(config.to_dict()) | set(config.attribute_map)
    for name in fields:
        if not _is_field(name, config):
            raise UserError(
                f"{key}: '{config.model_type}' has no field '{name}'{nearest(name, known)}"
            )


def _is_field(name: str, config: PreTrainedConfig) -> bool:
    if name in config.to_dict() or name in config.attribute_map:
        return True
    # Not whatever else the class has: methods, and what says of which models it is made.
    return not name.startswith("_") and isinstance(getattr(type(config), name, None), property)


def build_model(
    model_class: Any,
    config: PreTrainedConfig,
    *,
    pretrained: str | None,
    key: str,
    pooler: bool = False,
    may_lack: tuple[str, ...] = (),
) -> tuple[Any, str | None]:
    """Create a model, with random weights or those of a checkpoint, in float32.

    Args:
        model_class: a class of transformers, or ``AutoModel``.
        config: its config.
        pretrained: folder or hub id of the weights; None for random ones.
        key: the setting that names the config or the checkpoint, for messages.
        pooler: with the pooling layer of BERT-like models, which is left out otherwise: parameters
            without gradients stop DDP.
        may_lack: parts of names of parameters that a checkpoint need not have.

    Returns:
        The model, and a line that says what was loaded, what is new and what was left over.

    Raises:
        UserError: no such checkpoint, or one that lacks weights of the model.
    """
    # A saved config remembers the dtype of its weights and would make a bfloat16 model.
    config.dtype = torch.float32
    has_sdpa = getattr(_class_of(model_class, config), "_supports_sdpa", False)
    options: dict[str, Any] = {"attn_implementation": "sdpa" if has_sdpa else "eager"}
    if pretrained is None:
        make: Any = partial(AutoModel.from_config, trust_remote_code=False)
        if model_class is not AutoModel:
            make = model_class._from_config
        try:
            return make(config, **options | _pooling_layer(model_class, config, pooler)), None
        except (ValueError, AssertionError) as error:
            raise UserError(f"{key}: {_first_line(error)}") from error
    try:
        with _own_report():
            model, report = model_class.from_pretrained(
                pretrained,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                **options | _pooling_layer(model_class, config, pooler),
            )
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: other shapes
        raise UserError(f"{key}: cannot load '{pretrained}': {_first_line(error)}") from error
    lacking = sorted(report["missing_keys"]) + [
        str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"]
    ]
    new = [name for name in lacking if any(part in name for part in may_lack)]
    if lacking != new:
        raise UserError(
            f"{key}: '{pretrained}' lacks weights of a {type(model).__name__}, or has them in "
            f"another shape: {some(lacking)}"
        )
    return model.train(), (
        f"{len(model.state_dict()) - len(new)} tensors of {pretrained}; new: "
        f"{some(new)}; left over there: "
        f"{some(sorted(report['unexpected_keys']))}"
    )


def _default_config(model_type: str) -> Any:
    """Return a type's config as it is without settings; SigLIP's warns of its own token ids."""
    with _own_report():
        return AutoConfig.for_model(model_type)


@contextmanager
def _own_report() -> Iterator[None]:
    """Keep transformers from printing what our own line replaces, or nobody can change."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _class_of(model_class: Any, config: PreTrainedConfig) -> Any:
    if model_class is not AutoModel:
        return model_class
    if type(config) not in AutoModel._model_mapping:
        return None
    found = AutoModel._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _pooling_layer(model_class: Any, config: PreTrainedConfig, wanted: bool) -> dict[str, bool]:
    found = _class_of(model_class, config)
    if found is not None and "add_pooling_layer" in inspect.signature(found.__init__).parameters:
        return {"add_pooling_layer": wanted}
    return {}


def text_class(config: PreTrainedConfig) -> Any:
    """Return the class that encodes text with this config.

    Raises:
        UserError: a config of several models, or of an encoder with a decoder.
    """
    if config.model_type in _TEXT_TOWERS:
        return _TEXT_TOWERS[config.model_type]
    # Of the type, whatever this config says: others load further models, from a hub or a file.
    default = _default_config(config.model_type)
    if getattr(default, "is_encoder_decoder", False) or default.sub_configs:
        raise UserError(f"config: a '{config.model_type}' is more than a text encoder")
    if "vocab_size" not in default.to_dict():
        raise UserError(f"config: a '{config.model_type}' reads no tokens")
    if _class_of(AutoModel, config) is None:
        raise UserError(f"config: transformers has no plain model for '{config.model_type}'")
    return AutoModel


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return a model's config as a dict that `read_config` takes.

    Fields of a checkpoint's config that the class does not know have no effect, and are left out.
    """
    settings: dict[str, Any] = model.config.to_dict()
    default = _default_config(model.config.model_type)
    return {
        name: value
        for name, value in settings.items()
        if name == "model_type"
        or (_is_field(name, default) and not name.startswith("_") and name not in _NO_FIELDS)
    }


def read_extractor(
    extractor_class: Any,
    *,
    checkpoint: str | None,
    own: dict[str, Any],
    changes: dict[str, Any] | None,
) -> Any:
    """Return a feature extractor of transformers, which holds a model's parameters.

    Args:
        extractor_class: its class.
        checkpoint: folder or hub id whose ``preprocessor_config.json`` (or, as transformers 5
            saves whole processors, ``processor_config.json``) counts; a local folder without them,
            and None, give the defaults of the class.
        own: parameters that the model's sizes fix.
        changes: parameters to set; they count more than the checkpoint's.

    Raises:
        UserError: unknown parameters, one that contradicts the model, or no such file on the hub.
    """
    known = set(inspect.signature(extractor_class.__init__).parameters) - {"self", "kwargs"}
    for name, value in (changes or {}).items():
        if name not in known:
            raise UserError(
                f"features: {extractor_class.__name__} has no '{name}'{nearest(name, known)}; "
                f"it has {', '.join(sorted(known))}"
            )
        if name in own and own[name] != value:
            raise UserError(f"features.{name}: {value}, but the model has {own[name]}")
    settings = own | (changes or {})
    folder = Path(checkpoint) if checkpoint is not None else None
    if folder is None or (folder.is_dir() and not any((folder / name).is_file() for name in SAID)):
        return extractor_class(**settings)
    assert checkpoint is not None
    try:
        # Not from_pretrained(**settings): it passes over those that the file does not name.
        kept, _ = extractor_class.get_feature_extractor_dict(checkpoint)
        return extractor_class(**kept | settings)
    except (OSError, ValueError) as error:
        raise UserError(
            f"features: no feature extractor at '{checkpoint}': {_first_line(error)}"
        ) from error


def extractor_args(extractor: Any) -> dict[str, Any]:
    """Return arguments that make the same feature extractor without a checkpoint."""
    known = set(inspect.signature(type(extractor).__init__).parameters) - {"self", "kwargs"}
    return {name: value for name, value in extractor.to_dict().items() if name in known}


def tokenizer_folder(checkpoint: str | None) -> str | None:
    """Return a checkpoint's folder if it lies on this machine and holds a tokenizer."""
    folder = Path(checkpoint).expanduser() if checkpoint is not None else None
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
    if folder is None or not any((folder / name).is_file() for name in names):
        return None
    return str(folder)
