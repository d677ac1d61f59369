"""The settings of a run beside model, data and trainer: `run:` in a configuration."""

from dataclasses import dataclass, field
from typing import Literal

from mmlight.errors import UserError
from mmlight.trainer.wandb_run import JobType, SentPatch


@dataclass
class RunSettings:
    """Where a run lives and who hears of it.

    Attributes:
        name: the experiment's name; None takes the name of the first config file.
        root: the folder of all runs; a run's own folder is `root/name/id`.
        id: the run's id; None takes SLURM's job id, or a fresh one.
        wandb: whether W&B gets what the run folder gets; `offline` needs no network.
        wandb_project: W&B's project.
        wandb_entity: W&B's user or team; None takes the account's default.
        wandb_patch: what W&B gets of uncommitted code: the changes of `tracked` files, `all` (with
            new files, of whatever content) or `none`; the run folder keeps all of it.
        job_type: what kind of job W&B lists it as; None: `eval` for a verb other than fit, else
            as the task says.
        tags: words to find it by in W&B and by `mmlight runs`.
        group: what W&B gathers runs by; None: the experiment's name, which all of its seeds share.
        notes: a text about the run, for W&B's list and the report.
        tensorboard: also write TensorBoard's event files, into the run's `tensorboard/`.
        test: after training, score the test set.
        test_with: the weights for that: the `last` ones, or the `best` by `checkpoint.monitor`.
        webhook: an address that gets a JSON post when a training has finished, failed or was given
            up; ``$NAME`` takes it from that environment variable, so that no key is written down.
        guard: whether USR1 and TERM make a training save, leave in order and be handed on (exit
            code 0); None: as `MMLIGHT_GUARD` (1 or 0) says, else it is handed on under SLURM only.
            Ctrl-C has it save and leave in any case.
        stall_minutes: after so long without a step on any rank a training is ended, with the stacks
            of its threads in `stalls/`, and handed on; None: never. `mmlight ps` names a rank that
            holds the others up in any case.
        max_skipped_steps: a step whose loss or gradient is not finite is left out, on all ranks;
            more than so many in a row end the training.
    """

    name: str | None = None
    root: str = "runs"
    id: str | None = None
    wandb: Literal["off", "online", "offline"] = "off"
    wandb_project: str = "mmlight"
    wandb_entity: str | None = None
    wandb_patch: SentPatch = "tracked"
    job_type: JobType | None = None
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    notes: str | None = None
    tensorboard: bool = False
    test: bool = False
    test_with: Literal["last", "best"] = "last"
    webhook: str | None = None
    guard: bool | None = None
    stall_minutes: float | None = None
    max_skipped_steps: int = 10

    def __post_init__(self) -> None:
        if self.max_skipped_steps < 0:
            raise UserError(
                f"run.max_skipped_steps is {self.max_skipped_steps}; it must be 0 or more"
            )
