"""The job script: the template `job.sh`, filled in."""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.git import SNAPSHOT
from mmlight.runs.run import checked
from mmlight.runs.slurm.profile import Profile, check_line

# What a run's process does: it goes on from the newest checkpoint of this run, if there is one.
FIT = (
    'fit -c "$run/submitted.yaml" --run.root "$root" --run.name "$name" --run.id "$id" '
    "--ckpt_path auto"
)
_MARK = "#@ "


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
    nodes: int = 1,
    tasks_per_node: int = 1,
    gpus_per_node: int = 0,
    snapshot: Path | None = None,
    cwd: Path | None = None,
    command: str = FIT,
) -> str:
    """Return the script of a job.

    Args:
        profile: what the cluster wants to be asked.
        root: the folder of all runs.
        name: the experiment's name.
        run_id: the run's id, for a job of one run.
        array: the runs, for a job array.
        folder: where the script and the logs of its jobs go.
        nodes: number of machines.
        tasks_per_node: processes on each.
        gpus_per_node: GPUs of each.
        snapshot: where Python imports the code from; None for the installed package.
        cwd: where relative paths begin; None for the current folder.
        command: what follows ``python -m mmlight``, as words of the shell. It may use the
            variables ``root``, ``name``, ``id`` and ``run`` (the run's folder).

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
    for what, path in (
        *(("run.root", root), ("the run's folder", folder), ("the current folder", here)),
        *(("the copy of the code", snapshot), ("the interpreter", sys.executable)),
    ):
        check_line(what, str(path))
    if "\\" in str(folder):
        # SLURM 22.05 drops it from the log's path, and the job fails before it begins.
        raise UserError(f"run.root: {str(root)!r} holds a backslash, which SLURM does not take")
    mounts = _mounts(profile, [here, root, *([snapshot] if snapshot else [])])
    filled = {
        "options": _options(
            profile,
            name=f"{name}-{run_id}" if run_id else name,
            # sbatch puts the job's id and more in place of what a % begins.
            log=f"{folder}/".replace("%", "%%") + ("%A_%a.out" if array else "%j.out"),
            array=array,
            nodes=nodes,
            tasks_per_node=tasks_per_node,
            gpus_per_node=gpus_per_node,
        ),
        "run": [
            f"cwd={_quoted(here)}",
            f"root={_quoted(root)}",
            f"name={_quoted(name)}",
            *(
                [f"ids=({_joined(array.ids)})", "id=${ids[SLURM_ARRAY_TASK_ID]}"]
                if array
                else [f"id={_quoted(run_id)}"]
            ),
        ],
        "setup": [
            *([f"module load {_joined(profile.modules)}"] if profile.modules else []),
            *_exports(profile.environment),
            *(_exports({"PYTHONPATH": snapshot, SNAPSHOT: snapshot}) if snapshot else []),
            *profile.setup,
        ],
        "bounds": [
            *_exports(
                {
                    "MMLIGHT_MAX_REQUEUES": profile.max_requeues,
                    "MMLIGHT_MAX_STUCK": profile.max_stuck,
                    "MMLIGHT_ON_PREEMPTION": profile.on_preemption,
                    "MMLIGHT_JOB_SCRIPT": folder / "job.sh",
                }
            )
        ],
        "command": [
            f"host_python={_quoted(sys.executable)}",
            f"srun=({_srun(profile, mounts=mounts)})",
            f"python=({_python(profile, interpreter, mounts=mounts)})",
            f"command=({command})",
        ],
    }
    return _fill(template().read_text(), filled)


def template() -> Path:
    """Return the template's path."""
    return Path(__file__).with_name("job.sh")


def _fill(text: str, filled: dict[str, list[str]]) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(_MARK):
            lines += filled.pop(line.removeprefix(_MARK).split()[0])
        else:
            lines.append(line)
    assert not filled, filled
    return "\n".join(lines) + "\n"


def _options(
    profile: Profile,
    *,
    name: str,
    log: str,
    array: Array | None,
    nodes: int,
    tasks_per_node: int,
    gpus_per_node: int,
) -> list[str]:
    given: dict[str, str | int | None] = {
        "job-name": name,
        "output": log,
        "open-mode": "append",
        "array": array.option() if array else None,
        "nodes": nodes,
        "ntasks-per-node": tasks_per_node,
        "cpus-per-task": profile.cpus_per_task,
        "gres": f"{profile.gres or 'gpu'}:{gpus_per_node}" if gpus_per_node else None,
        "mem": profile.memory_per_node,
        "time": profile.time,
        "signal": f"USR1@{profile.signal_lead_s}",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "reservation": profile.reservation,
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


def _mounts(profile: Profile, folders: Sequence[Path]) -> list[str]:
    """Return the container's mounts as ``FROM:TO``; a folder within another needs none."""
    own = [m for m in folders if not any(m != n and m.is_relative_to(n) for n in folders)]
    given = profile.container.mounts if profile.container else []
    return [*(f"{m}:{m}" for m in own), *(m if ":" in m else f"{m}:{m}" for m in given)]


def _srun(profile: Profile, *, mounts: Sequence[str]) -> str:
    # Since SLURM 22.05 a step no longer takes --cpus-per-task from its job.
    words = ["--kill-on-bad-exit=1", f"--cpus-per-task={profile.cpus_per_task}"]
    container = profile.container
    if container is not None and container.runtime == "pyxis":
        words += [
            f"--container-image={container.image}",
            f"--container-mounts={','.join(mounts)}",
            *container.options,
        ]
    return _joined([*words, *profile.srun])


def _python(profile: Profile, interpreter: str, *, mounts: Sequence[str]) -> str:
    container = profile.container
    words: list[str] = []
    if container is not None and container.runtime == "apptainer":
        words = ["apptainer", "exec", *(f"--bind={m}" for m in mounts), *container.options]
        words.append(container.image)
    return _joined([*words, interpreter])


def _ranges(tasks: Iterable[int]) -> str:
    """Return `0-3,7` of 0, 1, 2, 3, 7."""
    found: list[list[int]] = []
    for task in sorted(tasks):
        if found and task == found[-1][1] + 1:
            found[-1][1] = task
        else:
            found.append([task, task])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def _exports(values: Mapping[str, object]) -> list[str]:
    return [f"export {name}={_quoted(value)}" for name, value in values.items()]


def _joined(words: Iterable[object]) -> str:
    return " ".join(map(_quoted, words))


def _quoted(value: object) -> str:
    quoted = shlex.quote(str(value))
    # A bare comma in an array of the shell looks like a mistake.
    return f"'{quoted}'" if "," in quoted and quoted[0] != "'" else quoted
