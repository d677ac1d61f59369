"""Keeps libraries from saying, or looking for, the same thing in every start or step."""

import logging
import os
import warnings

import torch


def look_for_the_driver_once() -> None:
    """Where there is no GPU, keep torch's optimisers from looking for one in every step.

    Lightning has torch load NVIDIA's driver library to see; 0.3 ms each time where it is missing.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def quieten() -> None:
    """Silence what Lightning and jsonargparse say of themselves on every start."""
    # Lightning announces its own advice on every start; what matters is in the run folder.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"jsonargparse.*")
    for told in (  # a run that goes on in its own folder; an evaluation, which saves nothing
        "Checkpoint directory .* exists and is not empty",
        "Be aware that when using `ckpt_path`, callbacks",
        # Every rank has the same scores: they are computed of what all ranks gathered.
        r"It is recommended to use `self.log\(.*sync_dist=True",
        "The `srun` command is available",  # said once a stage on any machine of a cluster
    ):
        warnings.filterwarnings("ignore", message=told)
    # No validation split is an answer, not an oversight.
    warnings.filterwarnings("ignore", message=r"Total length of `list` across ranks is zero.*")
    # torch renamed a class that Lightning 2.6 still asks for by its old name.
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
