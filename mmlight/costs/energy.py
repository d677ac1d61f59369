"""The energy that a GPU has used, where NVIDIA's management library tells it."""

import importlib
from typing import Any

import torch


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
