"""What all pictures share: a figure, its style, and how it becomes a file."""

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlight.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's eight colours, which people with colour blindness can tell apart, and two more.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
    "#F0E442",
    "#8C564B",
    "#7F7F7F",
)
GOOD, FAIR, BAD, GRID = "#009E73", "#E69F00", "#C44E52", "#D9D9D9"
MODALITY_COLORS = {"image": COLORS[0], "text": COLORS[1], "audio": COLORS[2]}
MODALITY_MARKERS = {"image": "o", "text": "s", "audio": "^"}


def new_figure(*, width: float, height: float) -> "Figure":
    """Return an empty figure that fits its labels in by itself.

    Args:
        width: inches.
        height: inches.
    """
    # No pyplot: it keeps figures alive, and picks a window system.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def style(axes: Any) -> None:
    """Give axes a light grid and no box.

    Args:
        axes: matplotlib axes.
    """
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def bare(axes: Any) -> None:
    """Take ticks away, for axes that hold an image.

    Args:
        axes: matplotlib axes.
    """
    axes.set_xticks([])
    axes.set_yticks([])


def border(axes: Any, color: str, *, width: float = 3) -> None:
    """Draw a frame around axes that hold an image.

    Args:
        axes: matplotlib axes.
        color: of the frame.
        width: points.
    """
    axes.spines[:].set(visible=True, color=color, linewidth=width)


def show_pixels(axes: Any, pixels_CHW: np.ndarray, **options: Any) -> None:
    """Draw an image of one channel or three, with `options` of `imshow`."""
    pixels = np.moveaxis(pixels_CHW, 0, -1)
    gray = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if gray else pixels, cmap="gray" if gray else None, **options)


def wrap(text: str, *, width: int, lines: int) -> str:
    """Return `text` broken into at most `lines` lines, shortened by an ellipsis where needed.

    Args:
        text: a caption; a ``$`` is kept as it is (matplotlib would read formulas).
        width: characters per line.
        lines: number of lines.
    """
    broken = textwrap.wrap(" ".join(text.split()), width, max_lines=lines, placeholder=" ...")
    return "\n".join(broken).replace("$", r"\$")


def scaled(values: np.ndarray) -> np.ndarray:
    """Return values from -1 to 1, 0 for NaN; where all speak for the answer, the least is 0."""
    if np.nanmin(values, initial=np.inf) > 0:  # attention is never zero
        values = values - np.nanmin(values)
    return np.nan_to_num(values / (np.nanmax(np.abs(values), initial=0.0) or 1.0))


def spread(size: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `size`, as far apart as they can be."""
    return np.linspace(0, size - 1, min(size, most), dtype=int).tolist()


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, the same bytes for the same content, and return the path.

    Args:
        figure: the figure.
        path: where; its folder is made.
    """
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=110, metadata={"Software": None})
    # 256 colours look the same and take a fifth: a report embeds twenty of these. Ours are among
    # them: beside photographs, thin lines have no share in a palette, and green became blue.
    picture = Image.open(full).convert("RGB")
    colors = [int(color[1:], 16) for color in (*COLORS, BAD)]
    fewer = picture.quantize(num_found := 256 - len(colors))
    indices_HW = np.array(fewer)
    codes_HW = np.asarray(picture) @ np.array([1 << 16, 1 << 8, 1])
    for number, code in enumerate(colors, start=num_found):
        indices_HW[codes_HW == code] = number
    palette = bytes(fewer.getpalette() or ())[: 3 * num_found].ljust(3 * num_found, b"\0")
    fewer = Image.fromarray(indices_HW)
    fewer.putpalette(palette + b"".join(code.to_bytes(3, "big") for code in colors))
    fewer.save(small, format="png", optimize=True)
    write_bytes(path, small.getvalue())
    return path
