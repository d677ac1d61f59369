"""What encoders use of timm, imported without W&B.

timm imports W&B for a log of its own training script: 0.6 s of CPU time at every start.
"""

import sys
from typing import Any, cast

__all__ = [
    "ResNet",
    "adapt_input_conv",
    "group_parameters",
    "load_model_config_from_hf",
    "resolve_data_config",
    "timm",
]

_modules = cast(dict[str, Any], sys.modules)
_is_hidden = "wandb" not in _modules
if _is_hidden:
    _modules["wandb"] = None  # to timm, it is not installed
try:
    import timm
    from timm.data.config import resolve_data_config
    from timm.models import adapt_input_conv, group_parameters, load_model_config_from_hf
    from timm.models.resnet import ResNet
finally:
    if _is_hidden:
        del _modules["wandb"]
