"""What all HTML pages share: one file each, which opens anywhere and needs no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The smallest letters of pictures have 8 points at 110 dpi, 12 px: so they keep 9 px.
_LEAST_SCALE = 0.75
_COLUMN_PX = 546  # half the page

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5c6670; --line: #d8dde2;
  --page: #ffffff; --panel: #f5f7f9; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b0; --line: #39424b;
  --page: #14181c; --panel: #1d2329; --mark: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
.failed { color: #c44e52; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
th:first-child, td:first-child, th.left, td.left { text-align: left; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; vertical-align: top; }
td.main { font-weight: 600; color: var(--mark); }
table.samples td { text-align: left; vertical-align: middle; }
table.samples td > div { white-space: normal; min-width: 16rem; max-width: 34rem; }
table.samples img { width: auto; max-width: none; display: block; image-rendering: pixelated; }
table.samples audio { width: 12rem; height: 2rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: 1.25rem; align-items: start; }
figure { margin: 0; min-width: 0; } figure.wide { grid-column: 1 / -1; }
img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px;
  background: white; }
figure audio { height: 2rem; width: 14rem; vertical-align: middle; }
figure ul { list-style: none; padding: 0; margin: .4rem 0 0; font-size: .85rem; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .2rem; }
details { margin-top: .75rem; } summary { cursor: pointer; }
pre { background: var(--panel); padding: 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .82rem; line-height: 1.45; }
"""


def whole_page(title: str, parts: Sequence[str]) -> str:
    """Return a page.

    Args:
        title: of the window.
        parts: HTML, one after another; empty ones are passed over.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def figure(path: Path, *, wide: bool = False, name: str | None = None, below: str = "") -> str:
    """Return a picture with its caption; the page holds the picture itself.

    What would be unreadable in half the page's width takes the whole; what is still wider, or a
    window that is narrow, is scrolled.

    Args:
        path: a PNG.
        wide: whether it takes the whole width in any case.
        name: the caption; None takes the file's name.
        below: HTML that belongs to it.
    """
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big")
    least = round(_LEAST_SCALE * width)
    data = base64.b64encode(content).decode()
    caption = text(name or path.stem.replace("_", " "))
    kind = ' class="wide"' if wide or least > _COLUMN_PX else ""
    return (
        f'<figure{kind}><div class="scroll">'
        f'<img alt="{caption}" style="min-width: {least}px; max-width: {width}px" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{caption}</figcaption>{below}</figure>"
    )


def facts(title: str, values: Mapping[str, Any]) -> str:
    """Return a table of names and values; what is None or empty is passed over."""
    rows = "".join(
        f"<tr><td>{text(name)}</td><td>{text(value).replace(chr(10), '<br>')}</td></tr>"
        for name, value in values.items()
        if value not in (None, "")
    )
    return f'<h2>{text(title)}</h2><table class="facts">{rows}</table>'


def listing(title: str, content: str) -> str:
    """Return text as it is, folded away under a title."""
    return f"<details><summary>{text(title)}</summary><pre>{text(content)}</pre></details>"


def text(value: Any) -> str:
    """Return a value as text that HTML shows as it is."""
    return html.escape(str(value))
