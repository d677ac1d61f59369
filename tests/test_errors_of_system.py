"""What the system refuses is one line with the path."""

import errno
import os

import pytest

from mmlight import __main__ as command
from mmlight.errors import told_by_system


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOTCONN, errno.ENOLCK])
def test_any_of_its_errors_is_one_line(number, monkeypatch, capsys):
    def refuse(arguments):
        raise OSError(number, os.strerror(number), "runs/a/b")

    monkeypatch.setattr(command, "_run", refuse)
    assert command.main(["fit"]) == command.FAILURE
    assert capsys.readouterr().err == f"mmlight: runs/a/b: {os.strerror(number)}\n"


def test_a_full_disk_behind_an_error_of_a_library_is_found():
    def raised():
        try:
            try:
                raise OSError(errno.ENOSPC, "No space left on device", "x.ckpt")
            except OSError as error:
                raise RuntimeError("enforce fail at inline_container.cc") from error
        except RuntimeError as error:
            return error

    assert told_by_system(raised()) == "x.ckpt: No space left on device"
    assert told_by_system(OSError("the hub said\nno")) == "the hub said no"
    assert told_by_system(OSError(errno.EXDEV, "Invalid link", "a", None, "b")) == (
        "a, b: Invalid link"
    )
    assert told_by_system(RuntimeError("ours")) is None


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(arguments):
        raise RuntimeError("ours")

    monkeypatch.setattr(command, "_run", fail)
    with pytest.raises(RuntimeError, match="ours"):
        command.main(["fit"])
