"""The memory of this process and its device, and the energy that a GPU has used."""

import importlib
import resource
import sys
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")


def resident_bytes() -> float:
    """Return the resident memory of this process now; its peak where the system cannot tell."""
    return _of_status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> float:
    """Return the largest resident memory that this process has had."""
    # What getrusage tells on Linux is the parent's peak at first.
    if peak := _of_status("VmHWM"):
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _of_status(name: str) -> float:
    if not _STATUS.exists():
        return 0.0
    lines = _STATUS.read_text().splitlines()
    return next((float(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:")), 0.0)


def peak_bytes(device: torch.device) -> float:
    """Return the peak of the device's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()


class EnergyMeter:
    """Reads the energy counter of one GPU; without the package `pynvml` it knows nothing.

    Args:
        device: the GPU, or a CPU, of which nothing is known.
    """

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        if device.type != "cuda":
            return
        try:
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            # torch's numbering follows CUDA_VISIBLE_DEVICES, NVML's does not; the UUID is common.
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
            self.joules()
        except Exception:  # no package, no driver, or a GPU without a counter: NVML has one error
            self._nvml = None

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded, or None where nobody knows."""
        if self._nvml is None:
            return None
        millijoules: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        return millijoules / 1000
