"""How a task is spread over processes: gradients averaged (DDP) or everything sharded (FSDP2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from mmlight.errors import UserError
from mmlight.saved.checkpoint import read_checkpoint
from mmlight.saved.locate import kind_of
from mmlight.trainer.module import TrainedModule
from mmlight.trainer.shard import shard
from mmlight.trainer.sharded_files import (
    gather_whole,
    load_sharded,
    load_whole,
    save_sharded,
)

_ON_CPU = StateDictOptions(cpu_offload=True)


class Ddp(DDPStrategy):
    """DDP with gradients that live in the buckets they are sent in (`trainer.strategy: ddp`).

    DDP looks for parameters without gradients only where a task has some: a schedule that trains
    more parameters later on, or parts of a tower that it leaves out. Looking costs a walk through
    the graph in every step.

    Args:
        gradients: what gradients are sent as; `bfloat16` halves the traffic and rounds them to 8
            bits (torch's `bf16_compress_hook`).
        options: further arguments of Lightning's `DDPStrategy`.
    """

    def __init__(
        self, *, gradients: Literal["float32", "bfloat16"] = "float32", **options: Any
    ) -> None:
        self.gradients = gradients
        options = {"gradient_as_bucket_view": True, **options}
        if gradients == "bfloat16":
            options["ddp_comm_hook"] = bf16_compress_hook
        super().__init__(**options)

    def setup(self, trainer: pl.Trainer) -> None:
        """Wrap the built task."""
        if (
            isinstance(self.lightning_module, TrainedModule)
            and self.lightning_module.has_unused_parameters()
        ):
            self._ddp_kwargs.setdefault("find_unused_parameters", True)
        super().setup(trainer)


class Fsdp(ModelParallelStrategy):
    """FSDP2 (arXiv 2304.11277) over every repeated block of every encoder (`strategy: fsdp`).

    Each device keeps 1/W of the parameters, gradients and optimiser states, and gathers a block's
    parameters for as long as the block computes. It pays above about two billion parameters on
    GPUs of 141 GB; below, DDP sends less.

    With `precision: bf16-mixed`, parameters are gathered in bfloat16 (the objective's stay in
    float32: a temperature would lose its digits) and gradients are summed in float32.

    Args:
        cpu_offload: keep what is not computing in the host's memory; slow, and the last resort.
        reshard_after_forward: give a block's parameters back between forward and backward; false
            keeps them, which saves a third of the traffic.
        sharded_checkpoints: each rank writes its own part, into a folder; false gathers all on one
            rank into one file. Either loads under any strategy and number of devices.
    """

    def __init__(
        self,
        *,
        cpu_offload: bool = False,
        reshard_after_forward: bool = True,
        sharded_checkpoints: bool = True,
    ) -> None:
        # Norms of offloaded gradients are summed between the hosts, which NCCL cannot do.
        super().__init__(
            tensor_parallel_size=1,
            process_group_backend="cpu:gloo,cuda:nccl" if cpu_offload else None,
        )
        self.sharded_checkpoints = sharded_checkpoints
        self._cpu_offload = cpu_offload
        self._reshard = reshard_after_forward
        self._sharded: list[FSDPModule] = []

    def setup_environment(self) -> None:
        """Meet the other ranks; all of them share the parameters.

        Raises:
            UserError: parameters are to be offloaded from a CPU.
        """
        if self._cpu_offload and self.root_device.type == "cpu":
            raise UserError("fsdp's cpu_offload has no effect on a CPU; leave it out")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the built task, once, then make its optimiser."""
        task = self.lightning_module
        if not isinstance(task, TrainedModule):
            raise UserError("trainer.strategy: fsdp shards the tasks of mmlight only")
        if not self._sharded:
            self._check(task)
            self._sharded = shard(
                task,
                mesh=self.device_mesh["data_parallel"],
                bfloat16=self.precision_plugin.precision == "bf16-mixed",
                reshard_after_forward=self._reshard,
                cpu_offload=self._cpu_offload,
            )
        super().setup(trainer)

    def model_to_device(self) -> None:
        """Move what is not sharded; what is offloaded stays."""
        if not self._cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.root_device))

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Add gradients up on each rank, without sending them, while batches accumulate."""
        self._set_sync(False)
        try:
            yield
        finally:
            self._set_sync(True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this rank's parts; `save_checkpoint` makes of them what it writes."""
        assert self.model is not None
        return dict(get_model_state_dict(self.model, options=_ON_CPU))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return this rank's parts, by the names of parameters."""
        own = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert self.model is not None
        return dict(get_optimizer_state_dict(self.model, own, options=_ON_CPU))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Write a folder, or one file; whole or not at all."""
        path = Path(self.broadcast(filepath))
        if self.sharded_checkpoints:
            save_sharded(checkpoint, path)
            return
        whole = gather_whole(checkpoint)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(whole, path)
        self.barrier()

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a folder, or a file that any strategy wrote, into the sharded model."""
        path = Path(self.broadcast(checkpoint_path))
        task = self.lightning_module
        assert task is not None
        if kind_of(path) == "parts":
            return load_sharded(path, task, self.optimizers)
        return load_whole(read_checkpoint(path), task, self.optimizers)

    def _check(self, task: TrainedModule) -> None:
        if task.unfreezes():
            raise UserError(
                "model.tuning.unfreeze trains more parameters later on, which fsdp cannot; use "
                "trainer.strategy: ddp"
            )
        # Every rank keeps its own part of what it built itself: all must have built the same.
        sums = torch.tensor(
            [float(p.detach().double().sum()) for p in task.parameters()], dtype=torch.float64
        ).to(self.root_device)
        first = self.broadcast(sums.cpu())
        if not torch.equal(sums.cpu(), first):
            raise UserError("the ranks built different weights; give them the same seed_everything")

    def _set_sync(self, value: bool) -> None:
        for module in self._sharded:
            module.set_requires_gradient_sync(value)
