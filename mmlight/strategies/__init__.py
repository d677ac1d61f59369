"""How a task is spread over processes: gradients averaged (DDP) or everything sharded (FSDP2)."""
