"""The command line: finds the verb, and imports only what that verb needs."""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from mmlight.errors import UserError, nearest, told_by_system
from mmlight.experiment.arguments import check_start
from mmlight.own_modules import bring_in, see_working_folder, take_imports
from mmlight.signals import (
    INTERRUPTED,
    Interrupted,
    answer_interrupts,
    is_first_rank,
    is_interrupted,
    is_wanted,
    leaving_imports,
    note_signals,
)
from mmlight.terminal import note, replace_unknown, say

TRAINING_VERBS = {
    "fit": "train a model:                 mmlight fit -c experiments/pretrain/scenes.yaml",
    "validate": "score a checkpoint on val:     mmlight validate -c FILE --ckpt_path last",
    "test": "score a checkpoint on test:    mmlight test -c FILE --ckpt_path last",
    "predict": "answers for shards or files:   mmlight predict -c FILE --ckpt_path last",
}
# The module of each verb (its `main` takes the arguments), and a line of help.
OTHER_VERBS = {
    "init": ("commands.init", "a folder to begin in:          mmlight init FOLDER --data PATH"),
    "list": ("commands.list", "what experiments may name:      mmlight list tasks"),
    "shards": ("data.shards_command", "pack, check, sift shards:      mmlight shards --help"),
    "tokenizer": (
        "data.tokenizer_command",
        "train a tokenizer on captions: mmlight tokenizer --help",
    ),
    "ngram": ("data.ngram_command", "word n-grams of transcripts:   mmlight ngram --help"),
    "lr-find": ("commands.lr_find", "find a learning rate:          mmlight lr-find -c FILE"),
    "cost": ("commands.cost", "what training will cost:       mmlight cost -c FILE"),
    "bench": ("commands.bench", "what training steps cost here: mmlight bench -c FILE"),
    "folds": ("commands.folds", "cross-validate:                mmlight folds -c FILE --k 5"),
    "sweep": ("commands.sweep", "try many settings:             mmlight sweep -c FILE"),
    "submit": (
        "commands.submit",
        "give an experiment to SLURM:   mmlight submit -c FILE --cluster FILE",
    ),
    "ps": ("commands.ps", "what runs, waits, has ended:   mmlight ps"),
    "logs": ("commands.logs", "what a run prints:             mmlight logs -f RUN"),
    "cancel": ("commands.cancel", "end runs:                      mmlight cancel RUN"),
    "resume": ("commands.resume", "go on with a run that ended:   mmlight resume RUN"),
    "clean": ("commands.clean", "remove unused copies of code:  mmlight clean"),
    "runs": ("commands.runs", "list and filter runs:          mmlight runs --where lr=0.001"),
    "compare": ("commands.compare", "runs side by side:             mmlight compare RUN RUN"),
    "reproduce": (
        "commands.reproduce",
        "run a recorded run again:      mmlight reproduce RUN --check 50",
    ),
    "papers": ("commands.papers", "papers, reported and reproduced: mmlight papers"),
    "robustness": (
        "commands.robustness",
        "score on spoiled test data:    mmlight robustness -c FILE --ckpt_path last",
    ),
    "evaluate": (
        "commands.evaluate",
        "models on a suite of sets:     mmlight evaluate --model RUN --suite FILE",
    ),
    "judge": (
        "commands.judge",
        "what a model draws, by another: mmlight judge -c FILE --model RUN --judge RUN",
    ),
    "scenes": ("data.scenes.shards", "make the quickstart's data:    mmlight scenes data/scenes"),
    "chat": (
        "commands.chat",
        "ask about an image or sound:   mmlight chat --model RUN --image FILE",
    ),
    "generate": (
        "commands.generate",
        "what a model says to prompts:  mmlight generate --model RUN --prompt TEXT",
    ),
    "soup": ("commands.soup", "average runs of one model:     mmlight soup RUN RUN -c FILE"),
    "wise-ft": ("commands.wise_ft", "between two models:            mmlight wise-ft --help"),
    "import": (
        "interop.import_command",
        "a published model as ours:     mmlight import FOLDER OUT",
    ),
    "export": (
        "interop.export_command",
        "ONNX, torch.export, a card:    mmlight export RUN --out FOLDER",
    ),
    "push": ("interop.push_command", "a model onto the hub:          mmlight push RUN OWNER/NAME"),
}
# Those of them that take `--import my_module` and no config, which imports by itself.
_IMPORTING = ("chat", "evaluate", "export", "generate", "push")
FAILURE, USER_MISTAKE = 1, 2
# They train, and save when they are told to stop.
_SAVE = ("fit", "resume")
# They write nothing that takes long, and some are left by Ctrl-C.
_READ = ("ps", "logs", "cancel", "clean", "runs", "compare")


def _verb(name: str) -> Callable[[Sequence[str]], int]:
    # Before torch is loaded: its threads wait for one another without spinning. On two busy
    # cores a spinning thread keeps the working one from running: 27 against 107 samples/s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if name in TRAINING_VERBS:
        with leaving_imports():
            from mmlight.commands import train

        return lambda rest: train.main([name, *rest])
    if name in OTHER_VERBS:
        if name == "shards":
            return _shards
        with leaving_imports():
            module = import_module(f"mmlight.{OTHER_VERBS[name][0]}")
        command: Callable[[Sequence[str]], int] = module.main
        return command
    verbs = [*TRAINING_VERBS, *OTHER_VERBS]
    raise UserError(f"unknown verb '{name}'{nearest(name, verbs)}; see mmlight --help")


def _shards(rest: Sequence[str]) -> int:
    verb, path = rest[:1], OTHER_VERBS["shards"][0]
    # With an experiment or a model, they need what is floors above the shards.
    if verb == ["check"] and any(a.split("=")[0] in ("-c", "--config") for a in rest):
        path, rest = "commands.check_experiment", rest[1:]
    elif verb in (["score"], ["caption"]) or (verb == ["dedup"] and _names_model(rest)):
        path = "commands.shards_model"
        rest, modules = take_imports(rest)
        bring_in(modules)
    with leaving_imports():
        module = import_module(f"mmlight.{path}")
    return int(module.main(rest))


def _names_model(rest: Sequence[str]) -> bool:
    return any(argument.split("=")[0] == "--model" for argument in rest)


def _dry_run(rest: Sequence[str]) -> int:
    with leaving_imports():
        from mmlight.commands import dry_run

    return dry_run.main(rest)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        others = {verb: text for verb, (_, text) in OTHER_VERBS.items()}
        say(
            "usage: mmlight VERB ...",
            "",
            "Pretrain and fine-tune image, text and audio encoders on sharded data.",
            "",
            *(f"  {verb:<10} {text}" for verb, text in (TRAINING_VERBS | others).items()),
            "",
            "`mmlight VERB --help` lists what a verb takes.",
        )
        return 0 if arguments else USER_MISTAKE
    if arguments[0] == "--version":
        from importlib.metadata import version

        say(f"mmlight {version('mmlight')}")
        return 0
    see_working_folder()
    verb, rest = arguments[0], arguments[1:]
    if verb in _IMPORTING:
        rest, modules = take_imports(rest)
        bring_in(modules)
    if verb == "fit" and "--dry_run" in rest:
        rest = [argument for argument in rest if argument != "--dry_run"]
        return _dry_run(check_start("cost", rest))
    rest = check_start(verb, rest)
    return _verb(verb)(rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (2 for a user's mistake, said in one line)."""
    replace_unknown()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # else a part of another program, whose signals are its own
        _answer_signals(arguments)
        # Python would look through all that torch has made for what it can free: 2 s at least.
        atexit.register(gc.freeze)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except (Interrupted, KeyboardInterrupt) as interrupt:
        if not is_first_rank():
            return 0  # Lightning kills all ranks where one ends otherwise
        note(str(interrupt) or "stopped by Ctrl-C")
        return INTERRUPTED
    except UserError as error:
        if os.environ.get("MMLIGHT_TRACEBACK"):
            raise
        # An error of a loader's worker arrives with that process's traceback before it.
        said = str(error).rpartition("UserError: ")[2]
        note(" ".join(said.split()))
        return USER_MISTAKE
    except BrokenPipeError:
        # The reader of our output (head, less) went away: not an error worth a traceback.
        _drop_output()
        return 128 + signal.SIGPIPE
    except Exception as error:
        refused = told_by_system(error)
        if os.environ.get("MMLIGHT_TRACEBACK") or not (refused or is_interrupted()):
            raise
        if refused is None:
            # Of what Ctrl-C has broken off, anything may come; it is no fault to be looked into.
            note(f"stopped by Ctrl-C; {type(error).__name__}: {error}")
            return INTERRUPTED if is_first_rank() else 0
        note(refused)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return FAILURE


def _answer_signals(arguments: Sequence[str]) -> None:
    """Note them before torch is imported, which takes seconds."""
    verb = arguments[0] if arguments else ""
    if verb in _SAVE and is_wanted(os.environ) is not False:
        note_signals()
    elif verb not in _READ:
        answer_interrupts()


def _drop_output() -> None:
    """Let nothing that could not be written be written at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
