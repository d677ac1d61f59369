"""What libraries say: kept quiet where nobody needs it, or found to be about a user's mistake."""

import logging
import os
import re
import warnings

from mmlight.errors import UserError, nearest

_MONITOR = re.compile(r"monitor='([^']+)'\)` could not find .*? metrics: \[(.*?)\]")


def quieten() -> None:
    """Silence what Lightning and jsonargparse say of themselves on every start."""
    # Lightning announces its own advice on every start; what matters is in the run folder.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"jsonargparse.*")
    for pattern in (  # a run that goes on in its own folder; an evaluation, which saves nothing
        "Checkpoint directory .* exists and is not empty",
        "Be aware that when using `ckpt_path`, callbacks",
        # Every rank has the same scores: they are computed of what all ranks gathered.
        r"It is recommended to use `self.log\(.*sync_dist=True",
        "The `srun` command is available",  # said once a stage on any machine of a cluster
        # No validation split is an answer, not an oversight.
        r"Total length of `list` across ranks is zero.*",
        # torch renamed a class that Lightning 2.6 still asks for by its old name.
        r".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def find_mistake(error: BaseException) -> UserError | None:
    """Return what the user did wrong, where that is what an error of any depth is about."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # The parser wraps what a class raises while it is built, and names it as the cause.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, MisconfigurationException):
            said = " ".join(str(cause).split())
            if monitor := _MONITOR.search(said):
                near = nearest(monitor[1], re.findall(r"'([^']+)'", monitor[2]))
                said = f"checkpoint.monitor: there is no metric '{monitor[1]}'{near}"
            return UserError(said)
        cause = cause.__cause__
    return None
