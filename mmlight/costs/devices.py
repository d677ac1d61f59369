"""What devices can do, by their makers' data sheets."""

from dataclasses import dataclass

from mmlight.errors import UserError, nearest

# How many operations a second a GPU can be given by one Python process that does not compile.
_CALL_S = 6e-6


@dataclass(frozen=True)
class Device:
    """One device of a data sheet.

    Attributes:
        name: as it is said on the command line.
        tflops: dense matrix products, 10^12 FLOP/s by precision.
        memory_gib: of the device.
        memory_gb_s: bandwidth of its memory.
        watts: at full load.
        link_gb_s: to its neighbours in the same machine, each way.
        network_gb_s: to other machines, for each device; what is usual.
    """

    name: str
    tflops: dict[str, float]
    memory_gib: float
    memory_gb_s: float
    watts: float
    link_gb_s: float
    network_gb_s: float = 50.0


# Sources: NVIDIA's data sheets of H200, H100 (SXM), A100 (80 GB SXM), L40S and the Ada
# architecture's white paper (RTX 4090), each without sparsity. float32 is that of the CUDA cores:
# torch takes TF32 only where it is told to. NVLink counts one direction; 400 Gb/s of InfiniBand per
# GPU; L40S and RTX 4090 talk over PCIe 4.
DEVICES = {
    device.name: device
    for device in (
        Device("h200", {"bf16": 989, "fp32": 67}, 141e9 / 2**30, 4800, 700, 450),
        Device("h100", {"bf16": 989, "fp32": 67}, 80e9 / 2**30, 3350, 700, 450),
        Device("a100", {"bf16": 312, "fp32": 19.5}, 80e9 / 2**30, 2039, 400, 300, 25),
        Device("l40s", {"bf16": 362, "fp32": 91.6}, 48e9 / 2**30, 864, 350, 32, 25),
        Device("rtx4090", {"bf16": 165, "fp32": 82.6}, 24e9 / 2**30, 1008, 450, 32, 12.5),
    )
}


def find_device(name: str) -> Device | None:
    """Return a device of the table; None for `cpu`, which is measured instead.

    Raises:
        UserError: no such device.
    """
    if name == "cpu":
        return None
    if name not in DEVICES:
        known = ", ".join(["cpu", *DEVICES])
        raise UserError(f"--device {name}: known are {known}{nearest(name, DEVICES)}")
    return DEVICES[name]


def call_s() -> float:
    """Return the host's seconds for each operation on a GPU."""
    return _CALL_S
