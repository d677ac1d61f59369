"""The memory of this process and of its device."""

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def resident_bytes() -> float:
    """Return the resident memory of this process now; its peak where the system cannot tell."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return float(line.split()[1]) * 1024
    return peak_resident_bytes()


def peak_resident_bytes() -> float:
    """Return the largest resident memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def peak_bytes(device: torch.device) -> float:
    """Return the peak of the device's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()
