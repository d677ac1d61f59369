"""Tells an address of the user's that a run has finished or was given up."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.terminal import note

_TIMEOUT_S = 5.0


def post(
    run: Path,
    state: str,
    *,
    reason: str = "",
    setting: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Send what became of a run, as JSON, if its settings name an address (`run.webhook`).

    What goes wrong is noted, and changes nothing. The address may hold a key, so it is never shown.

    Args:
        run: the run's folder.
        state: such as ``finished``.
        reason: why it was given up.
        setting: `run.webhook`, where the caller knows it; None reads the run's configuration.
        environ: holds the address where the setting is ``$NAME``.
    """
    try:
        address = _address(setting or Run(run).setting("run.webhook"), environ)
        if address is None:
            return
        label = f"{run.parent.name}/{run.name}"
        content: dict[str, Any] = {
            "text": f"{label} {state}{': ' * bool(reason)}{reason}",
            "name": run.parent.name,
            "id": run.name,
            "state": state,
            "reason": reason,
            "folder": str(run.absolute()),
            "host": socket.gethostname(),
            "job": environ.get("SLURM_JOB_ID"),
        }
        kind = {"Content-Type": "application/json"}
        with urlopen(Request(address, json.dumps(content).encode(), kind), timeout=_TIMEOUT_S):
            pass
    except Exception as error:
        # What urllib says of an address may repeat it.
        code = getattr(error, "code", None)
        said = (
            str(error) if isinstance(error, UserError) else f"{type(error).__name__} {code or ''}"
        )
        note(f"run.webhook: could not be told that the run is {state}: {said.strip()}")


def _address(setting: str | None, environ: Mapping[str, str]) -> str | None:
    if setting is not None and setting.startswith("$"):
        name = setting[1:].strip("{}")
        if not environ.get(name):
            raise UserError(f"{name} is not set here")
        setting = environ[name]
    if setting is not None and urlsplit(setting).scheme not in ("http", "https"):
        raise UserError("it is no address that begins with http:// or https://")
    return setting
