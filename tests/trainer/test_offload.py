"""What offloading to the host asks of the strategy; it needs a GPU to run."""

from mmlight.trainer.strategies import Fsdp


def test_offloaded_gradients_are_summed_between_hosts():
    assert Fsdp(cpu_offload=True).process_group_backend == "cpu:gloo,cuda:nccl"
    assert Fsdp().process_group_backend is None
