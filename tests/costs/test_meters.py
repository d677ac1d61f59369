"""The memory of a process is its own, and not that of the one which started it."""

import os
import subprocess
import sys

import pytest

from mmlight.costs import meters

_HELD = 1 << 30


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage tells it")
def test_a_peak_is_not_that_of_the_parent():
    code = "from mmlight.costs import meters; print(meters.peak_resident_bytes())"
    held = bytearray(os.urandom(1024)) * (_HELD >> 10)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert len(held) == _HELD
    assert meters.peak_resident_bytes() > _HELD > float(said.stdout) > 1 << 25
    assert meters.resident_bytes() <= meters.peak_resident_bytes()
