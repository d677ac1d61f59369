import operator
import os
import subprocess
import sys
import threading
import time

import pytest

from mmlight.data.scan import scan
from mmlight.errors import UserError


def test_results_come_in_the_order_of_the_items_whatever_takes_longer():
    def look(number):
        time.sleep(0.002 * (number % 3 == 0))
        return number * 2

    assert list(scan(range(200), look, what="Looking", workers=4)) == [
        (n, n * 2) for n in range(200)
    ]
    assert list(scan([], look, what="Looking")) == []


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for number in range(10_000):
            taken.append(number)
            yield number

    found = scan(items(), lambda number: number, what="Looking", workers=2)
    assert next(found) == (0, 0)
    assert len(taken) < 500
    found.close()


def test_an_error_ends_the_walk_and_its_threads():
    def look(number):
        if number == 40:
            raise ValueError("forty")
        return number

    before = threading.active_count()
    found = scan(range(100), look, what="Looking", workers=2)
    with pytest.raises(ValueError, match="forty"):
        list(found)
    assert threading.active_count() == before


def test_processes_find_the_same_and_one_that_is_killed_is_told():
    items = [float(number) for number in range(40)]
    found = scan(items, operator.neg, what="Looking", workers=2, chunk=3, processes=True)
    assert list(found) == [(number, -number) for number in items]
    with pytest.raises(UserError, match="Looking: the system has killed a process"):
        list(scan([1], os._exit, what="Looking", workers=1, processes=True))


_POOLS = """
import sys, threading
from mmlight.data.scan import in_processes
from mmlight.signals import answer_interrupts

def limit():  # which a forked process inherits
    with in_processes(1) as pool:
        return pool.submit(sys.getrecursionlimit).result()

if __name__ == "__main__":
    sys.setrecursionlimit(1234)
    answer_interrupts()
    print(limit())
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    print(limit())
"""


def test_processes_of_a_command_are_forked_unless_a_thread_may_hold_a_lock(tmp_path):
    script = tmp_path / "pools.py"
    script.write_text(_POOLS)
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    forked = "1234" if sys.platform == "linux" else "1000"
    assert said.stdout.split() == [forked, "1000"], said.stderr
