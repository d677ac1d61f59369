"""Text from files only shows: no escape sequence reaches the terminal, no line is forged."""

import ast
import io
import json
import tarfile
from pathlib import Path

import pytest
from rich.table import Table

from mmlight.__main__ import main
from mmlight.terminal import Terminal, one_line, say, say_text

# Clears the screen, sets the window's title and the clipboard; forges a line of ours; markup.
EVIL = "a\x1b[2J\x1b]52;c;aGk=\x07\x9b1m\r\nmmlight: all good\u202e[/][red]"
PACKAGE = Path(__file__).parents[1] / "mmlight"


def obeyed(said):
    """Return what a terminal would obey, or take for a line of ours."""
    controls = [c for c in said if one_line(c) != c and c != "\n"]
    return controls + [line for line in said.split("\n") if line.startswith("mmlight: all good")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 日本 👩‍🔬", "plain ä 日本 👩‍🔬"),
        ("a\x1b[31mb\n\t\r\x7f", r"a\x1b[31mb\n\t\r\x7f"),
        ("\x9b2J\u2028\u202e", r"\x9b2J\u2028\u202e"),
        ("not UTF-8: \udcff", r"not UTF-8: \udcff"),
        (7, "7"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert one_line(text) == shown


def test_each_argument_is_a_line(capsys):
    say("one", EVIL, Path("two"))
    said = capsys.readouterr().out
    assert said.count("\n") == 3 and not obeyed(said)


def test_text_of_several_lines_keeps_newlines_and_tabs(capsys):
    say_text("a\tb\n\x1b[1mc\n")
    assert capsys.readouterr().out == "a\tb\n\\x1b[1mc\n"


@pytest.mark.parametrize("colors", [False, True])
def test_cells_headings_and_titles_of_tables_only_show(colors):
    said = io.StringIO()
    system = "standard" if colors else None
    console = Terminal(file=said, width=1000, force_terminal=colors, color_system=system)
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL, style="red")
    table.add_row(EVIL)
    console.print(EVIL, table)
    shown = said.getvalue()
    assert ("\x1b[31m" in shown) is colors  # a style of ours
    assert "\x1b[2J" not in shown and "\x07" not in shown and "\x9b" not in shown
    assert shown.count("[/][red]") == 5
    assert not [line for line in shown.split("\n") if line.startswith("mmlight: all good")]


def test_everything_is_printed_by_the_terminals_module():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="print")):
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} print")
                case ast.Attribute(
                    value=ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"),
                    attr="write" | "writelines",
                ):
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} write")
                case ast.ImportFrom(module="rich.console" | "rich.text" | "rich", names=names):
                    bad = {"Console", "Text", "print"} & {n.name for n in names}
                    found += [f"{path.relative_to(PACKAGE)}:{node.lineno} {n}" for n in bad]
    assert found == []


def shard(path, members):
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_keys_of_samples_only_show(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    key = EVIL.replace("/", "")
    shard(tmp_path / "s\x1b[2J/0.tar", {f"{key}.jpg": b"none", f"{key}.json": b"{"})
    assert main(["shards", "check", "s\x1b[2J"]) == 1
    assert main(["shards", "index", "s\x1b[2J"]) == 0
    shard(tmp_path / "twice/0.tar", {f"{key}.jpg": b"none"} | {f"b/{key}.JPG": b"none"})
    main(["shards", "pack", "s\x1b[2J", "out\x1b[2J"])
    said = capsys.readouterr()
    assert "bad: " in said.out and r"\x1b[2J" in said.out
    assert obeyed(said.out + said.err) == []


@pytest.fixture
def evil_root(tmp_path, monkeypatch):
    """Runs whose names, values, metrics, reasons and logs all come from a stranger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    name, value = EVIL.replace("/", "|"), EVIL
    for number, run in enumerate((name, f"{name}2")):
        path = tmp_path / "runs" / name / run
        path.mkdir(parents=True)
        config = {value: value, "seed_everything": value, "lr": number, "model": {"x": value}}
        (path / "config.yaml").write_text(json.dumps(config))
        row = {"step": 1, "epoch": 0, "samples": 1, "wall_s": 1.0, f"val/{value}": 0.5}
        (path / "metrics.jsonl").write_text(json.dumps(row | {"val/loss": 0.1}) + "\n")
        summary = {"status": "failed", "error": value, "final": {f"val/{value}": 0.5}}
        (path / "summary.json").write_text(json.dumps(summary))
        end = {"event": "end", "time": 1.0, "step": 1, "reason": f"failed: {value}"}
        (path / "attempts.jsonl").write_text(json.dumps(end) + "\n")
        (path.parent / f"{run}.log").write_text(f"{value}\nError: {value}\n")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    "command",
    [
        ["ps", "--all"],
        ["ps", "--all", "--metric", f"val/{EVIL}"],
        ["runs", "--all"],
        ["runs", "-q"],
        ["runs", "--csv", "--show", "x"],
        ["runs", "--show", "x", "--metric", f"val/{EVIL}"],
        ["runs", "--metric", f"no/{EVIL}"],
        ["compare", EVIL.replace("/", "|"), "--metric", "val/loss"],
        ["compare", EVIL.replace("/", "|"), "--metric", f"val/{EVIL}"],
        ["cancel", EVIL],
        ["resume", EVIL.replace("/", "|") + "2"],
        ["reproduce", EVIL],
        [EVIL],
    ],
    ids=lambda command: " ".join(command).encode("unicode_escape").decode()[:40],
)
def test_commands_print_no_escape_sequence(evil_root, capsys, command):
    main(command)
    said = capsys.readouterr()
    assert said.out + said.err and obeyed(said.out + said.err) == []


def test_logs_print_lines_and_nothing_else_is_obeyed(evil_root, capsys):
    name = EVIL.replace("/", "|")
    assert main(["logs", f"{name}/{name}2"]) == 0
    said = capsys.readouterr().out
    # Lines of a log are lines; they may say anything.
    assert [c for c in said if one_line(c) != c and c != "\n"] == []
    assert r"\x1b]52;c;aGk=\x07" in said


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_terminal_that_lacks_a_character_gets_a_question_mark(monkeypatch, errors):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors=errors)
    monkeypatch.setattr("sys.stdout", stream)
    assert main(["--version"]) == 0  # the command line sets it up
    say("image → text, ä")
    table = Table("a → b")
    table.add_row("日本")
    Terminal(file=stream).print(table)
    stream.flush()
    shown = stream.buffer.getvalue().decode("latin-1")
    assert "image ? text, ä\n" in shown and "a ? b" in shown and "??" in shown
