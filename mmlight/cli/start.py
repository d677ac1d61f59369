"""What is wrong with a command and can be said at once: before torch is loaded, which takes 5 s."""

from collections.abc import Sequence
from pathlib import Path

from mmlight import compose
from mmlight.errors import UserError, nearest
from mmlight.experiment.arguments import BEST, INLINE, LAST, check_top_keys

# Of the parser of the four verbs; a test compares them with it.
TOP_KEYS = (
    *("trainer", "model", "data", "run", "checkpoint", "seed_everything", "import", "ckpt_path"),
    *("ema", "zero_shot", "probe", "pictures", "mistakes", "explain", "predictions"),
    *("early_stopping", "weights_only", "verbose", "return_predictions"),
)
_TRAINING = ("fit", "validate", "test", "predict")
# Verbs whose `-c FILE` is an experiment.
_VERBS = (
    *_TRAINING,
    "lr-find",
    "cost",
    "bench",
    "folds",
    "submit",
    "robustness",
    "soup",
    "wise-ft",
)
_WITH_RUNS = ("soup", "wise-ft")


def check_start(verb: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a verb; an experiment that stands alone gets its ``-c``.

    Raises:
        UserError: an experiment that is not there or no YAML, a key at its top or a flag that
            begins with none, or a checkpoint's path that does not exist.
    """
    given = list(arguments)
    if verb not in _VERBS:
        return given
    if verb not in _WITH_RUNS and given and not given[0].startswith("-"):
        given.insert(0, "-c")
    for place, argument in enumerate(given):
        flag, equals, value = argument.partition("=")
        if not equals:
            value = given[place + 1] if place + 1 < len(given) else ""
        if flag in ("-c", "--config") and value and not argument.startswith(f"{INLINE}{{"):
            _check_experiment(Path(value), name=value)
        if verb not in _TRAINING or not flag.startswith("--"):
            continue
        if flag == "--ckpt_path":
            _check_checkpoint(Path(value), name=value)
        root = flag[2:].partition(".")[0].rstrip("+")
        if root not in (*TOP_KEYS, "config", "help", "print_config"):
            raise UserError(f"unknown key `{root}`{nearest(root, TOP_KEYS)}")
    return given


def _check_checkpoint(path: Path, *, name: str) -> None:
    # RUN_FOLDER/best is the run's best checkpoint.
    there = path.parent if path.name in (BEST, LAST) else path
    if path.parent != Path() and not path.exists() and not there.exists():
        raise UserError(f"--ckpt_path {name}: no such file or run folder")


def _check_experiment(path: Path, *, name: str) -> None:
    if not path.exists():
        near = nearest(path.stem, (other.stem for other in path.parent.glob("*.yaml")))
        raise UserError(f"config file {name}: no such file{near}")
    for layer in compose.expand(path):
        try:
            check_top_keys(layer.values, TOP_KEYS)
        except UserError as error:
            raise UserError(f"config file {layer.path}: {error}") from error
