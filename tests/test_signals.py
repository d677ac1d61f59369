"""Signals that ask a run to stop end neither it nor its workers."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import Dataset

from mmlight import signals
from mmlight.data.loader import ShieldedLoader, _init_worker


class Pids(Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, number):
        return torch.tensor([os.getpid(), number])


@pytest.fixture
def worker():
    loader = ShieldedLoader(Pids(), batch_size=None, num_workers=1, worker_init_fn=_init_worker)
    batches = iter(loader)
    yield int(next(batches)[0]), batches
    batches._shutdown_workers()


def send_from_elsewhere(number, pid):
    subprocess.run(["kill", f"-{number}", str(pid)], check=True)
    time.sleep(0.2)


def test_worker_outlives_the_signals_of_the_job(worker):
    pid, batches = worker
    for number in (signal.SIGUSR1, signal.SIGTERM):
        send_from_elsewhere(number, pid)
    assert [int(next(batches)[0]) for _ in range(20)] == [pid] * 20


def test_threads_that_a_library_starts_at_a_fork_leave_a_worker_alive(request):
    wanted = True

    def start():
        if wanted:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    os.register_at_fork(after_in_child=start)
    pid, batches = request.getfixturevalue("worker")
    wanted = False
    send_from_elsewhere(signal.SIGTERM, pid)
    assert [int(next(batches)[0]) for _ in range(20)] == [pid] * 20


def test_worker_ends_when_its_parent_says_so(worker):
    pid, batches = worker
    (process,) = batches._workers
    assert process.pid == pid
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        process.terminate()
        process.join(10)
        for _ in range(20):
            next(batches)
    assert process.exitcode == 0


NOTE = """
import os, signal, sys
from mmlight import signals
signals.note_signals()
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
    os.kill(os.getpid(), number)
    print(signals.noted(), flush=True)
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0 if signals.noted() == 0 else 1)
print(os.wait()[1])
"""


def test_the_most_urgent_signal_is_noted_by_the_process_itself_only():
    done = subprocess.run([sys.executable, "-c", NOTE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "2", "2", "0"]


EARLY = """
import sys, types
import mmlight.commands
from mmlight.__main__ import main
from mmlight.signals import are_noted
assert not are_noted()
cli = types.ModuleType("mmlight.commands.train")
cli.main = lambda arguments: print(are_noted(), "torch" in sys.modules) or 0
sys.modules["mmlight.commands.train"] = mmlight.commands.train = cli
sys.argv = ["mmlight", "fit"]
main()
"""


def test_signals_are_noted_before_anything_heavy_is_imported():
    for guard, noted in (("1", "True"), ("0", "True")):  # Ctrl-C is answered in any case
        done = subprocess.run(
            [sys.executable, "-c", EARLY],
            env={**os.environ, "MMLIGHT_GUARD": guard},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [noted, "False"]


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, True),
        ({"MMLIGHT_GUARD": "1"}, True),
        ({"SLURM_JOB_ID": "7", "MMLIGHT_GUARD": "0"}, False),
    ],
)
def test_training_is_guarded_under_slurm_or_where_asked(environ, wanted):
    assert signals.is_wanted(environ) is wanted


PRESS = """
import os, signal, sys, time
from mmlight import signals
from mmlight.__main__ import main

def stand_still():
    sys.stdout.write("begun\\n"); sys.stdout.flush()
    time.sleep(60)

def work(_):
    if {saves}:
        signals.save_first(lambda: print("cleaned", flush=True))
    child = os.fork()
    if child == 0:
        time.sleep(60)
    try:
        {body}
    finally:
        print("ended in order", flush=True)
    return 0

import mmlight.__main__ as entry
entry._verb = lambda name: work
sys.argv = ["mmlight", "predict"]
sys.exit(main())
"""


def press(body, *, saves=False, times=1):
    """Send Ctrl-C to a process and what it started, as a terminal does."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRESS.format(body=body, saves=saves)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    for _ in range(times):
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=10)
    return process.returncode, out.splitlines(), err.splitlines()


def test_ctrl_c_is_answered_and_ends_in_order_with_code_130():
    code, out, err = press("stand_still()")
    assert (code, out) == (130, ["ended in order"])
    assert err[-1] == "mmlight: stopped by Ctrl-C"


def test_second_ctrl_c_leaves_at_once_also_where_nothing_hears_the_first():
    deaf = "print('begun', flush=True); signal.pthread_sigmask(signal.SIG_SETMASK, ()); "
    deaf += "[time.sleep(60) for _ in range(9)]"
    code, out, err = press(deaf, saves=True, times=2)
    assert (code, out) == (130, ["cleaned"])
    # From Python 3.12 on, the fork of this test is warned of.
    first, second = (line for line in err if line.startswith("mmlight: "))
    assert first.startswith("mmlight: Ctrl-C: saves after this step and stops; once more")
    assert second == "mmlight: left at once"
