"""Creates timm models, and loads weights into them from a file."""

import re
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from mmlight.encoders.timm_import import adapt_input_conv, load_model_config_from_hf, timm
from mmlight.errors import UserError, nearest
from mmlight.published.weights import load_plain

_SHOWN = 5
_HUB = "hf-hub:"
# Arguments of timm.create_model that make it read other files.
_SOURCES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def create_timm(
    name: str, *, pretrained: bool, weights: str | None, options: dict[str, Any]
) -> Any:
    """Create a timm model without a classifier.

    Args:
        name: timm's name, with or without a weights tag.
        pretrained: download (or take from the cache) the weights of the name's tag.
        weights: a file that is loaded instead.
        options: further arguments of the model; None means not given. An ``img_size`` is left
            out for models that take images of any size.

    Raises:
        UserError: no such model, an option that it does not take, or weights out of reach.
    """
    if pretrained and weights:
        raise UserError("pretrained and weights are both set; choose one of them")
    # A hub's config is fetched also for random weights; nothing is, unless weights are asked for.
    if not timm.is_model(name) and not (pretrained and name.startswith(_HUB)):
        raise UserError(
            f"name: timm has no model '{name}'{nearest(name.split('.')[0], timm.list_models())}; "
            "timm.list_models() names them all"
        )
    given = {option: value for option, value in options.items() if value is not None}
    if source := next((option for option in _SOURCES if option in given), None):
        raise UserError(
            f"name: '{source}' is no argument of the model; files of weights have a setting of "
            "their own"
        )
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **given)
    except TypeError as error:
        match = re.search(
            r"(?:unexpected|multiple values for) keyword argument '(\w+)'", str(error)
        )
        if match is None:
            raise
        refused = match[1]
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        line = " ".join(str(error).split())
        offline = "; without a network weights: FILE takes a local one" if pretrained else ""
        raise UserError(
            f"name: timm cannot create '{name}' with {given}: {line}{offline}"
        ) from error
    if refused == "img_size":
        without = {option: value for option, value in given.items() if option != "img_size"}
        return create_timm(name, pretrained=pretrained, weights=weights, options=without)
    raise UserError(f"name: timm model '{name}' takes no '{refused}' ({given[refused]!r})")


def load_weights(model: Any, path: str) -> str:
    """Load a local file of weights (safetensors, or a state dict read without unpickling).

    Position embeddings are resized and first convolutions adapted to the number of channels.

    Args:
        model: a timm model.
        path: the file.

    Returns:
        A line: how many tensors were loaded, which are new and which of the file are left over.

    Raises:
        UserError: no such file, not a file of weights, or tensors of other shapes.
    """
    state = _read(path)
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if filter_fn is not None:
        try:
            state = filter_fn(state, model)
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"weights: {path} holds no weights of a {type(model).__name__} ({error!r})"
            ) from error
    wanted = model.state_dict()
    for first in _first_convs(model):
        weight = state.get(first)
        if weight is not None and first in wanted and weight.ndim == wanted[first].ndim == 4:
            state[first] = adapt_input_conv(
                wanted[first].shape[1], weight, base_chans=weight.shape[1]
            )
    unlike = [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if unlike:
        raise UserError(
            f"weights: {len(unlike)} tensors of {path} have other shapes than the model's: "
            + some(unlike, "; ")
        )
    loaded = {name: tensor for name, tensor in state.items() if name in wanted}
    new = [name for name in wanted if name not in loaded]
    left = sorted(name for name in state if name not in wanted)
    if not loaded:
        raise UserError(
            f"weights: no tensor of {path} fits the model; the file has {some(left)}, "
            f"the model {some(new)}"
        )
    model.load_state_dict(loaded, strict=False)
    return f"{len(loaded)} tensors of {path}; new: {some(new)}; left over there: {some(left)}"


def registered(name: str, kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Return `name` and `kwargs` of a model as timm itself has it.

    Args:
        name: as for `create_timm`; one of the hub stands for a name and arguments, which its config
            says.
        kwargs: further arguments.
    """
    of_hub: dict[str, Any] = {}
    if name.startswith(_HUB):
        _, name, arguments = load_model_config_from_hf(name.removeprefix(_HUB))
        of_hub = dict(arguments or {})
    return {"name": name, "kwargs": (of_hub | (kwargs or {})) or None}


def timm_origin(model: Any) -> str:
    """Return a line that says where timm took its own weights for a model from."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name = f"{config.get('architecture', '')}.{config.get('tag', '')}".strip(".")
    where = config.get("hf_hub_id") or config.get("url") or config.get("file") or "its cache"
    count = len(model.state_dict())
    return f"{count} tensors of {name} in timm ({where}); its classifier is left over there"


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise UserError(f"weights: no file {path}")
    state = load_plain(Path(path), key="weights")
    for wrapper in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict):
        raise UserError(f"weights: {path} holds a {type(state).__name__}, not a state dict")
    return {
        name.removeprefix("module."): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def _first_convs(model: Any) -> list[str]:
    names = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv") or ()
    return [f"{name}.weight" for name in ((names,) if isinstance(names, str) else names)]


def some(names: list[str], separator: str = ", ") -> str:
    """Return the first of some names, and how many more there are."""
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more
