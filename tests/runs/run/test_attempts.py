"""The log of a run's attempts."""

from mmlight.runs.run.attempts import ATTEMPTS, append_event, read_attempts


def test_history_of_a_run_that_was_handed_on_and_finished(tmp_path):
    append_event(tmp_path, "start", job="7", restart=0, step=0, host="a")
    append_event(tmp_path, "end", step=12, reason="USR1", hand_on=True)
    append_event(tmp_path, "requeued", reason="USR1", step=12, stuck=0)
    history = read_attempts(tmp_path)
    assert (history.restarts, history.step, len(history.hand_ons)) == (0, 12, 1)
    assert history.problem is None
    assert not history.finished
    append_event(tmp_path, "start", job="7", restart=1, step=12, host="b")
    append_event(tmp_path, "end", step=30, reason="finished", hand_on=False)
    history = read_attempts(tmp_path)
    assert (history.restarts, history.step) == (1, 30)
    assert history.finished
    assert [e["event"] for e in history.hand_ons] == ["requeued"]
    assert all(event["time"] > 1e9 for event in history.events)


def test_failure_and_giving_up_are_problems_until_the_next_start(tmp_path):
    append_event(tmp_path, "start", job="7", restart=0, step=0, host="a")
    append_event(tmp_path, "end", step=3, reason="failed: ValueError: no", hand_on=False)
    assert read_attempts(tmp_path).problem == "failed: ValueError: no"
    append_event(tmp_path, "gave up", reason="no progress")
    assert read_attempts(tmp_path).problem == "no progress"
    append_event(tmp_path, "start", job="8", restart=0, step=0, host="a")
    assert read_attempts(tmp_path).problem is None


def test_line_of_a_killed_process_is_passed_over(tmp_path):
    append_event(tmp_path, "start", job="7", restart=0, step=5, host="a")
    with (tmp_path / ATTEMPTS).open("a") as file:
        file.write('{"event": "end", "st')
    assert read_attempts(tmp_path).step == 5
    append_event(tmp_path, "requeued", reason="killed")
    assert [e["event"] for e in read_attempts(tmp_path).events] == ["start", "requeued"]


def test_run_without_attempts_has_no_history(tmp_path):
    history = read_attempts(tmp_path / "missing")
    assert (history.restarts, history.step, history.problem) == (0, None, None)
