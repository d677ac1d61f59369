"""How many machines, GPUs and processes an experiment needs, and whether a cluster has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmlight.errors import UserError
from mmlight.runs.slurm.profile import Profile

# Strategies that start processes themselves: under SLURM srun has started them.
_OWN_PROCESSES = ("spawn", "fork", "notebook")
_ONE_PROCESS = ("single_device", "SingleDeviceStrategy")


@dataclass(frozen=True)
class Resources:
    """What a job asks for.

    Attributes:
        nodes: number of machines.
        tasks_per_node: processes on each.
        gpus_per_node: GPUs of each; 0 for training on CPUs.
    """

    nodes: int
    tasks_per_node: int
    gpus_per_node: int

    @property
    def num_processes(self) -> int:
        """Processes on all machines."""
        return self.nodes * self.tasks_per_node

    def trainer(self) -> dict[str, Any]:
        """Return the trainer's settings that say the same."""
        return {
            "accelerator": "gpu" if self.gpus_per_node else "cpu",
            "devices": self.tasks_per_node,
            "num_nodes": self.nodes,
        }

    def __str__(self) -> str:
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        one, many = ("GPU", "GPUs") if self.gpus_per_node else ("process", "processes")
        each = " each" if self.nodes > 1 else ""
        return f"{nodes}, {self.tasks_per_node} {one if self.tasks_per_node == 1 else many}{each}"


def plan(config: Mapping[str, Any], profile: Profile) -> Resources:
    """Return what an experiment needs of a cluster.

    Raises:
        UserError: the cluster lacks it, or the settings contradict one another; the message says
            which setting would work.
    """
    trainer = config["trainer"]
    nodes = int(trainer.get("num_nodes") or 1)
    on_gpus = _uses_gpus(str(trainer.get("accelerator", "auto")), profile)
    tasks = _devices(trainer.get("devices", "auto"), on_gpus=on_gpus, profile=profile)
    if on_gpus and tasks > profile.gpus_per_node:
        total = nodes * tasks
        split = -(-total // profile.gpus_per_node)
        even = total // split if total % split == 0 else profile.gpus_per_node
        raise UserError(
            f"trainer.devices: {tasks}, but a node of this cluster has {profile.gpus_per_node} "
            f"(gpus_per_node); use --trainer.devices {even} --trainer.num_nodes {split}"
        )
    if profile.max_nodes is not None and nodes > profile.max_nodes:
        raise UserError(
            f"trainer.num_nodes: {nodes}, but a job may have {profile.max_nodes} on this cluster "
            "(max_nodes)"
        )
    found = Resources(nodes, tasks, tasks if on_gpus else 0)
    _check_strategy(trainer.get("strategy", "auto"), found)
    _check_batch(config, found)
    return found


def notes(config: Mapping[str, Any], profile: Profile) -> list[str]:
    """Return what will work but is probably not meant."""
    workers = _data(config).get("num_workers")
    if isinstance(workers, int) and workers + 1 > profile.cpus_per_task:
        return [
            f"data.num_workers is {workers}, and cpus_per_task of the cluster's profile "
            f"{profile.cpus_per_task}: training and its workers share the cores"
        ]
    return []


def _uses_gpus(accelerator: str, profile: Profile) -> bool:
    if accelerator == "cpu":
        return False
    if accelerator == "auto":
        return profile.gpus_per_node > 0
    if accelerator not in ("gpu", "cuda"):
        raise UserError(f"trainer.accelerator: {accelerator}: on SLURM use gpu, cpu or auto")
    if not profile.gpus_per_node:
        raise UserError(
            f"trainer.accelerator: {accelerator}, but nodes of this cluster have no GPU "
            "(gpus_per_node: 0); use --trainer.accelerator cpu"
        )
    return True


def _devices(asked: Any, *, on_gpus: bool, profile: Profile) -> int:
    text = str(asked).strip()
    if text in ("auto", "-1"):
        return profile.gpus_per_node if on_gpus else 1
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"trainer.devices: {asked}: give a number or 'auto'; SLURM chooses which devices"
        )
    return int(text)


def _check_strategy(strategy: Any, resources: Resources) -> None:
    name = strategy.get("class_path", "") if isinstance(strategy, Mapping) else str(strategy)
    if any(word in name for word in _OWN_PROCESSES):
        raise UserError(f"trainer.strategy: {name} starts processes itself; on SLURM use ddp")
    if resources.num_processes > 1 and name.rpartition(".")[2] in _ONE_PROCESS:
        raise UserError(
            f"trainer.strategy: {name} is for one process, not for {resources.num_processes} "
            f"({resources}); use ddp or fsdp"
        )


def _check_batch(config: Mapping[str, Any], resources: Resources) -> None:
    batch, lanes = (_data(config).get(key) for key in ("global_batch_size", "num_lanes"))
    for key, value in (("global_batch_size", batch), ("num_lanes", lanes)):
        if isinstance(value, int) and value % resources.num_processes:
            raise UserError(
                f"data.{key}: {value} cannot be shared by {resources.num_processes} processes "
                f"({resources}); use a multiple of {resources.num_processes}"
            )


def _data(config: Mapping[str, Any]) -> Mapping[str, Any]:
    data = config.get("data") or {}
    return data.get("init_args") or {}
