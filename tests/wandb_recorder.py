"""A W&B server for tests: it records what the real SDK sends."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = Path(__file__).resolve().parents[2] / "shared" / "tools" / "wandb-recorder"


class Recorder:
    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        # While this file exists, the server answers 503.
        self.is_down = folder.with_name("down")
        self.environment = {
            "WANDB_BASE_URL": url,
            "WANDB_API_KEY": "a" * 40,
            "WANDB_SILENT": "true",
        }

    def runs(self) -> dict[str, Any]:
        file = self.folder / "runs.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def history(self, run: str) -> list[dict[str, Any]]:
        rows = self.runs()[run]["files"].get("wandb-history.jsonl", {})
        return [rows[key] for key in sorted(rows, key=int)]

    def config(self, run: str) -> dict[str, Any]:
        return {k: v["value"] for k, v in self.runs()[run]["config"].items()}

    def requests(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "requests.jsonl").read_text().splitlines()
        return [found for found in map(json.loads, lines) if found["kind"] == kind]


@contextmanager
def recorder(folder: Path) -> Iterator[Recorder]:
    """Run the server; skip the test where there is none."""
    if not _PROGRAM.exists():
        pytest.skip("there is no wandb-recorder beside this repository")
    if find_spec("aiohttp") is None:
        pytest.skip("wandb-recorder needs aiohttp")
    down = folder.with_name("down")
    process = subprocess.Popen(
        [sys.executable, str(_PROGRAM), "--dir", str(folder), "--fail-file", str(down)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Recorder(process.stdout.readline().strip(), folder)
    finally:
        process.kill()
        process.wait()
