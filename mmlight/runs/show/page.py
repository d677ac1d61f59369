"""Pages of HTML: one file each, which opens anywhere and needs no network.

What a page shows may come from strangers; every value is escaped (`autoescape`).
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# The smallest letters of pictures have 8 points at 110 dpi, 12 px: so they keep 9 px.
_LEAST_SCALE = 0.75
_COLUMN_PX = 546  # half the page


@dataclass(frozen=True)
class Figure:
    """A picture, which the page holds itself.

    Attributes:
        caption: below it.
        source: the picture.
        width_px: of the picture.
        wide: whether it takes the whole width of the page.
        sounds: what can be listened to, below it; see `Sounds.of`.
    """

    caption: str
    source: str
    width_px: int
    wide: bool
    sounds: Sequence[Any] = ()

    @property
    def least_px(self) -> int:
        """How wide it must be for its letters to be read."""
        return round(_LEAST_SCALE * self.width_px)


def figure(
    path: Path,
    *,
    wide: bool = False,
    caption: str | None = None,
    sounds: Sequence[Any] = (),
) -> Figure:
    """Return a picture for a page; one that would be unreadable in half its width is wide.

    Args:
        path: a PNG.
        wide: whether it takes the whole width in any case.
        caption: None takes the file's name.
        sounds: what can be listened to.
    """
    width = int.from_bytes(path.read_bytes()[16:20], "big")
    caption = caption or path.stem.replace("_", " ")
    wide = wide or round(_LEAST_SCALE * width) > _COLUMN_PX
    return Figure(caption, data_url(path, "image/png"), width, wide, sounds)


def data_url(path: Path, kind: str) -> str:
    """Return a file as an address that holds its content."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def render(template: str, **values: Any) -> str:
    """Return a page."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(template).render(**values)
