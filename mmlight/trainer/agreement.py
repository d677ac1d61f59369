"""Ranks that agree on a number without waiting for a GPU."""

from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """A number that all ranks have agreed on: the greatest that any of them gave.

    It goes over the network between the hosts' processors, in its own group of gloo, while the next
    step computes: `ask` begins it, the next `ask` returns what came out of it. So a GPU is never
    waited for, and all ranks hear the same answer after the same step. A lone process hears its
    own number at once.

    Called by all ranks, in the same order.
    """

    def __init__(self) -> None:
        self._group: Any = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
        self._value = torch.zeros(1, dtype=torch.int64)
        self._work: Any = None

    def ask(self, value: int) -> int:
        """Give a number; return what was agreed on at the last call (a lone process: now)."""
        if self._group is None:
            return value
        before = self._answer()
        self._value = torch.tensor([value])
        self._work = dist.all_reduce(
            self._value, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return before

    def ask_now(self, value: int) -> int:
        """Give a number and wait for all ranks."""
        answer = self.ask(value)
        return answer if self._group is None else self._answer()

    def close(self) -> None:
        """Wait for all ranks, and leave the group: gloo aborts where one leaves early."""
        if self._group is not None:
            self._answer()
            dist.barrier(group=self._group)
            dist.destroy_process_group(self._group)
            self._group = None

    def _answer(self) -> int:
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._value)
