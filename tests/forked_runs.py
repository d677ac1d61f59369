"""Runs of the command line as processes that begin at once: forked from one that has imported all.

``python forked_runs.py MODULE ...`` reads a command as a line of JSON, prints the process's id,
waits for it and prints its exit code.
"""

import json
import os
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path


class ForkedRuns:
    """Starts commands one after another.

    Args:
        cwd: where they run.
        log: where they print.
        modules: what is imported beforehand.
    """

    def __init__(self, *, cwd: Path, log: Path, modules: list[str]) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MMLIGHT_", "PL_"))}
        with log.open("w") as file:
            self._server = subprocess.Popen(
                [sys.executable, __file__, *modules],
                cwd=cwd,
                env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def start(self, *arguments: str | Path) -> int:
        """Start a command; return its process's id."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps([str(a) for a in arguments]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """Wait for the command to end; return its exit code."""
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())

    def close(self) -> None:
        """End it all."""
        self._server.kill()
        self._server.communicate()


def _serve() -> None:
    for module in ("mmlight.__main__", "mmlight.commands.train", *sys.argv[1:]):
        import_module(module)
    from mmlight.__main__ import main

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(2, 1)
            try:
                code = main(json.loads(line))
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
