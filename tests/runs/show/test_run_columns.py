import io
import time

from mmlight.runs.show.columns import Column, show
from mmlight.terminal import Terminal

COLUMNS = (
    *(Column("run"), Column("state", styles=(("failed", "red"),)), Column("n", right=True)),
    *(Column("empty"), Column("why", wraps=True)),
)


def shown(rows, *, width=1000, colors=False):
    out = io.StringIO()
    terminal = Terminal(file=out, color_system="standard" if colors else None)
    show(COLUMNS, rows, terminal, width=width)
    return out.getvalue().splitlines()


def test_columns_are_as_wide_as_their_cells_and_empty_ones_are_left_out():
    assert shown([("a", "failed", 10, "", "x"), ("日本", "on", 9, "", "")]) == [
        "run    state     n   why",
        "────────────────────────",
        "a      failed   10   x",
        "日本   on        9",
    ]


def test_only_columns_that_wrap_are_narrowed_and_nothing_is_cut_off():
    why = "no progress beyond step 0 in 2 starts; x" + "y" * 30
    lines = shown([("a" * 20, "failed", 1, "", why)], width=50)
    assert max(map(len, lines)) <= 50 and lines[2].startswith("a" * 20)
    assert "".join(line[-15:].strip() for line in lines[2:]).count("y") == 31
    assert all(word in " ".join(lines) for word in why.split()[:-1])
    lines = shown([("a" * 60, "failed", 1, "", why)], width=50)
    assert lines[2].startswith("a" * 60)  # too narrow for anything


def test_one_long_reason_pads_no_other_row_of_a_file():
    lines = shown([("a", "failed", 1, "", "why " * 100), ("b", "on", 2, "", "")])
    assert lines[2].count("why") == 100  # still a line
    assert max(len(line) for n, line in enumerate(lines) if n != 2) < 60


def test_states_have_colors_on_a_terminal_and_cells_only_show():
    (_, _, row) = shown([("\x1b[2J\n[red]", "failed", 1, "", "[/]")], colors=True)
    assert row == "\\x1b[2J\\n[red]   \x1b[31mfailed\x1b[0m   1   [/]"


def test_ten_thousand_rows_are_shown_within_a_second():
    rows = [(f"experiment/{n}", "failed", n, "", "why" * 10) for n in range(10_000)]
    began = time.process_time()
    assert len(shown(rows)) == 10_002
    assert time.process_time() - began < 1
