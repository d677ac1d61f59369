"""Tasks from what is on disk of them."""

from collections.abc import Sequence
from pathlib import Path

from mmlight.errors import UserError
from mmlight.published.read import read_model
from mmlight.saved.checkpoint import Saved, check_same_model
from mmlight.saved.rebuild import rebuild
from mmlight.tasks.task import Task


def load_task(path: str | Path, *, trust: Sequence[str] = ()) -> Task:
    """Rebuild a task from what is on disk of it alone, with its weights, in evaluation mode.

    Args:
        path: a run's folder, a checkpoint, an export or a published model (see
            `mmlight.published.read.read_model`).
        trust: modules, besides mmlight's, whose classes it may name (see `mmlight.own_modules`).

    Raises:
        UserError: as `read_model` and `build_task`; it names the file.
    """
    found, saved = read_model(path, key="path")
    return build_named(saved, found, trust=trust)


def build_named(saved: Saved, path: Path, *, trust: Sequence[str] = ()) -> Task:
    """Do what `build_task` does; errors name the file."""
    try:
        return build_task(saved, trust=trust)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def build_task(saved: Saved, *, trust: Sequence[str] = ()) -> Task:
    """Rebuild a task from what was read of it, with its weights, in evaluation mode.

    Args:
        saved: what was read.
        trust: as for `load_task`.

    Raises:
        UserError: a description that names what it must not, or that this version cannot build.
    """
    task: Task = rebuild(saved.description, base=Task, trust=trust)
    task.preprocessing = saved.preprocessing
    try:
        task.configure_model()
    except UserError:
        raise
    except Exception as error:  # sizes that do not go together meet any kind of error
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the checkpoint's model cannot be built: {said[:300]}") from error
    check_same_model(saved.tensors, task.state_dict())
    task.load_state_dict(saved.tensors)
    return task.eval()


def saved_task(saved: str) -> Task:
    """Return the task that a checkpoint describes, without its weights.

    A configuration names this function where the checkpoint itself says what the model is.

    Args:
        saved: the checkpoint.
    """
    own: Task = rebuild(read_model(saved, key="saved")[1].description, base=Task)
    return own
