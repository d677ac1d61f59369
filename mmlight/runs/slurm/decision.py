"""What becomes of a run when one of its starts has ended: handed on, given up or left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmlight.runs.run.attempts import read_attempts
from mmlight.runs.run.folder import Run
from mmlight.signals import INT

Action = Literal["hand on", "give up", "leave"]
USER_MISTAKE = 2
_BACK_OFF_S = 30
_LONGEST_BACK_OFF_S = 1800


@dataclass(frozen=True)
class Decision:
    """What becomes of the job.

    Attributes:
        action: hand the job on, give the run up, or leave it as it ended.
        reason: why, for people.
        step: of the newest complete checkpoint; 0 without one.
        stuck: starts in a row, this one included, after which that step was the same; what SLURM
            or a node ended does not count.
        exit_code: of the job script.
        node: which one failed, where that is known.
        lost: starts in a row that SLURM or a node ended, at that step.
        exclude: nodes that the run goes on without.
    """

    action: Action
    reason: str
    step: int
    stuck: int
    exit_code: int
    node: str | None = None
    lost: int = 0
    exclude: tuple[str, ...] = ()

    @property
    def delay_s(self) -> int:
        """How long to wait before the next start: what failed twice will fail again at once."""
        return 0 if self.lost < 2 else min(_BACK_OFF_S * 2 ** (self.lost - 2), _LONGEST_BACK_OFF_S)

    def described(self) -> dict[str, Any]:
        """Return what the log of attempts keeps of it."""
        keys = ("reason", "step", "stuck", "lost", "node", "exclude", "delay_s")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Failure:
    """What is known of a start's end beside what lies in the run folder.

    Attributes:
        outside: what SLURM or a node did to it; None where it ended by itself.
        node: which node failed, or had the process that failed first.
    """

    outside: str | None = None
    node: str | None = None


def decide(
    run: Run,
    code: int,
    *,
    max_requeues: int,
    max_stuck: int,
    failure: Failure = Failure(),  # immutable
    can_exclude: Callable[[str], bool] = lambda nodes: False,
) -> Decision:
    """Decide from what lies in the run folder, and what SLURM says.

    Args:
        run: the run.
        code: what srun returned.
        max_requeues: how often a run may be handed on, all in all.
        max_stuck: how many starts in a row may end at the same checkpoint.
        failure: what SLURM says of the end.
        can_exclude: whether the job could run without nodes, given with commas.
    """
    step = run.checkpoint_step()
    history = read_attempts(run.path).since_given_up
    hand_ons = history.hand_ons
    ends: list[dict[str, object]] = []
    for event in history.events:
        if event["event"] in ("start", "requeued", "resubmitted"):
            ends = []
        elif event["event"] == "end":
            ends.append(event)
    # Ranks that are ended because one stands still may fail in their own way.
    stalled = [event for event in ends if event.get("stalled")]
    end = (stalled or ends or [{}])[-1]
    if stalled:  # the process that failed first is the one that noticed the other
        failure = replace(failure, node=str(end["node"]) if end.get("node") else None)
    failed = f"killed by signal {code - 128}" if code > 128 else f"failed with exit code {code}"
    hand_on, mistake = bool(end.get("hand_on")), any(e.get("mistake") for e in ends)
    reason = str(end.get("reason") or failed)
    before: Mapping[str, Any] = hand_ons[-1] if hand_ons else {}
    moved = step > int(before.get("step", 0))
    stuck = 0 if moved else int(before.get("stuck", 0))
    lost = 0
    if failure.outside is not None:
        reason = reason if hand_on else failure.outside
        lost = 1 if moved else int(before.get("lost", 0)) + 1
    elif not moved:
        stuck += 1
    exclude = list(before.get("exclude") or ())

    def decision(action: Action, why: str, exit_code: int) -> Decision:
        return Decision(action, why, step, stuck, exit_code, failure.node, lost, tuple(exclude))

    if run.cancelled.exists() or end.get("reason") == INT:
        return decision("leave", "cancelled", code)
    if not hand_on and (code == 0 or end.get("reason") == "finished"):
        return decision("leave", "finished", code)
    if mistake or (code == USER_MISTAKE and not hand_on):
        said = reason if mistake else "failed: a setting is wrong; the log says which"
        return decision("give up", said, code or USER_MISTAKE)
    node, elsewhere = failure.node, False
    if node is not None and node not in exclude and can_exclude(",".join([*exclude, node])):
        nodes = [e.get("node") for e in hand_ons]
        if failure.outside is not None and node in nodes:
            exclude = [*exclude, node]
        elif stuck >= max_stuck and not exclude and set(nodes[1 - max_stuck :]) <= {node}:
            # Once: it may be the node's fault, and then another one shows it.
            exclude, elsewhere = [node], True
    end_of_it = None
    if stuck >= max_stuck and not elsewhere:
        end_of_it = f"no progress beyond step {step} in {stuck} starts in a row"
    elif len(hand_ons) >= max_requeues:
        end_of_it = f"handed on {len(hand_ons)} times already, the most allowed"
    if end_of_it is not None:
        return decision("give up", f"{end_of_it}; the last: {reason}", code or 1)
    return decision("hand on", reason, 0)
