"""The job script: the template `job.sh`, filled in."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.code.git import SNAPSHOT
from mmlight.runs.run.ids import checked
from mmlight.runs.slurm.profile import SERVES, Profile, check_line
from mmlight.runs.slurm.resources import Resources
from mmlight.runs.slurm.shell_text import (
    environment,
    exports,
    joined,
    python_words,
    quoted,
    srun_words,
)

# What a run's process does: it goes on from the newest checkpoint of this run, if there is one.
_FIT = (
    'fit -c "$run/submitted.yaml" --run.root "$root" --run.name "$name" --run.id "$id" '
    "--ckpt_path auto"
)
TEMPLATE = Path(__file__).with_name("job.sh")
_MARK = "#@ "
_ONE_PROCESS = Resources(nodes=1, tasks_per_node=1, gpus_per_node=0)


@dataclass(frozen=True)
class Array:
    """One job of many tasks, each a run of its own.

    Attributes:
        ids: ids of the runs; task N is the run `ids[N]`.
        tasks: which of them are run now; None for all.
        max_concurrent: how many may run at a time; None for no limit.
    """

    ids: Sequence[str]
    tasks: Sequence[int] | None = None
    max_concurrent: int | None = None

    def option(self) -> str:
        """Return the value of sbatch's `--array`."""
        tasks = range(len(self.ids)) if self.tasks is None else self.tasks
        limit = f"%{self.max_concurrent}" if self.max_concurrent else ""
        return f"{_ranges(tasks)}{limit}"


def render(
    profile: Profile,
    *,
    root: Path,
    name: str,
    run_id: str | None = None,
    array: Array | None = None,
    folder: Path,
    resources: Resources = _ONE_PROCESS,
    snapshot: Path | None = None,
    own: Sequence[Path] = (),
    cwd: Path | None = None,
    prepare: Sequence[str] = (),
    file: str = "job.sh",
) -> str:
    """Return the script of a job.

    Args:
        profile: what the cluster wants to be asked.
        root: the folder of all runs.
        name: the experiment's name.
        run_id: the run's id, for a job of one run.
        array: the runs, for a job array.
        folder: where the script and the logs of its jobs go.
        resources: machines, processes and GPUs.
        snapshot: where Python imports mmlight from; None for the installed package.
        own: where Python imports the user's own code from.
        cwd: where relative paths begin; None for the current folder.
        prepare: lines of shell that run last before it.
        file: the script's name in `folder`.

    Raises:
        UserError: a name, an id or a folder with characters that no line of a script can hold.
    """
    assert (run_id is None) != (array is None)
    profile.check_lines()
    checked("name", name)
    for one in array.ids if array else [run_id]:
        checked("id", str(one))
    interpreter = profile.python or sys.executable
    here = (cwd or Path.cwd()).absolute()
    root, folder = root.absolute(), folder.absolute()
    snapshot = snapshot.absolute() if snapshot else None
    imports = [*([snapshot] if snapshot else []), *(one.absolute() for one in own)]
    for what, path in (
        *(("run.root", root), ("the run's folder", folder), ("the current folder", here)),
        *(("the copy of the code", snapshot), ("the interpreter", sys.executable)),
        *(("PYTHONPATH", one) for one in own),
    ):
        check_line(what, str(path))
    if "\\" in str(folder):
        # SLURM 22.05 drops it from the log's path, and the job fails before it begins.
        raise UserError(f"run.root: {str(root)!r} holds a backslash, which SLURM does not take")
    if broken := [str(one) for one in imports if ":" in str(one)]:
        raise UserError(f"{broken[0]!r} holds a colon, so Python can't import from it")
    seen, on_gpus = [here, root, *imports], resources.gpus_per_node > 0
    python = python_words(profile, interpreter, folders=seen, cwd=here, on_gpus=on_gpus)
    started = srun_words(profile, folders=seen, cwd=here, num_processes=resources.num_processes)
    filled = {
        "options": _options(
            profile,
            name=f"{name}-{run_id}" if run_id else name,
            # sbatch puts the job's id and more in place of what a % begins.
            log=f"{folder}/".replace("%", "%%") + ("%A_%a.out" if array else "%j.out"),
            array=array,
            resources=resources,
        ),
        "run": [
            f"cwd={quoted(here)}",
            f"root={quoted(root)}",
            f"name={quoted(name)}",
            *([f"ids=({joined(array.ids)})"] if array else []),
            "id=${ids[SLURM_ARRAY_TASK_ID]}" if array else f"id={quoted(run_id)}",
            f"host_python={quoted(sys.executable)}",
            f"imports={quoted(':'.join(map(str, imports)))}",
        ],
        "setup": [
            *([f"module load {joined(profile.modules)}"] if profile.modules else []),
            *environment(profile.environment),
            *profile.setup,
        ],
        "imports": [*_imports(imports, snapshot), *prepare],
        "bounds": exports(
            {
                "MMLIGHT_MAX_REQUEUES": profile.max_requeues,
                "MMLIGHT_MAX_STUCK": profile.max_stuck,
                "MMLIGHT_ON_PREEMPTION": profile.on_preemption,
                "MMLIGHT_JOB_SCRIPT": folder / file,
            }
        ),
        "command": [f"srun=({started})", f"python=({python})", f"command=({_FIT})"],
    }
    return _fill(TEMPLATE.read_text(), filled)


def _fill(text: str, filled: dict[str, list[str]]) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        lines += filled.pop(line.split()[1]) if line.startswith(_MARK) else [line]
    assert not filled, filled
    return "\n".join(lines) + "\n"


def _options(
    profile: Profile, *, name: str, log: str, array: Array | None, resources: Resources
) -> list[str]:
    gpus = resources.gpus_per_node
    given: dict[str, str | int | None] = {
        "job-name": name,
        "output": log,
        "open-mode": "append",
        "array": array.option() if array else None,
        "nodes": resources.nodes,
        "ntasks-per-node": resources.tasks_per_node,
        "cpus-per-task": profile.cpus_per_task,
        "gres": f"{profile.gres or 'gpu'}:{gpus}" if gpus else None,
        "mem": profile.memory_per_node,
        "time": profile.time,
        "signal": f"USR1@{profile.signal_lead_s}",
        **{key: getattr(profile, key) for key in SERVES},
    }
    options = [f"--{key}={_option(value)}" for key, value in given.items() if value is not None]
    options.append("--requeue")
    if profile.exclusive:
        options.append("--exclusive")
    return [f"#SBATCH {option}" for option in (*options, *profile.sbatch)]


def _option(value: str | int) -> str:
    """Quote a value as sbatch reads it in a script, which is not how a shell does."""
    text = str(value)
    if not any(c.isspace() or c in "\"'#\\" for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _ranges(tasks: Iterable[int]) -> str:
    """Return `0-3,7` of 0, 1, 2, 3, 7."""
    # Of neighbours, number and place are equally far apart.
    parts = groupby(enumerate(sorted(tasks)), key=lambda pair: pair[1] - pair[0])
    found = [[task for _, task in part] for _, part in parts]
    return ",".join(f"{f[0]}-{f[-1]}" if len(f) > 1 else str(f[0]) for f in found)


def _imports(folders: Sequence[Path], snapshot: Path | None) -> list[str]:
    """Return lines that put folders before what is on Python's path already."""
    if not folders:
        return []
    return [
        "# Before what modules, the profile and the shell that submitted have put there.",
        '[[ ${PYTHONPATH-}: == "$imports:"* ]] || '
        "export PYTHONPATH=$imports${PYTHONPATH:+:$PYTHONPATH}",
        *(exports({SNAPSHOT: snapshot}) if snapshot else []),
    ]
