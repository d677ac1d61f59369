"""``mmlight shards stats``: how many, how large and how long, as a table and a page."""

import argparse
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmlight.data.curation.copying import open_shards
from mmlight.data.members import Contents, extensions_of, parse_source
from mmlight.data.scan import scan
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError
from mmlight.files import check_writable, write_text
from mmlight.runs.plots.canvas import COLORS, new_figure, save, style
from mmlight.runs.show.grid import Column, Grid
from mmlight.runs.show.page import figure, render
from mmlight.terminal import note, say

# Captions by their usual names, where none is named.
_CAPTIONS = ("txt", "json:caption", "json:captions", "json:text")
_QUANTILES = (0, 0.05, 0.5, 0.95, 1)
_MOST_BINS = 60


@dataclass(frozen=True)
class Numbers:
    """Numbers of which one table row and one picture tell the spread.

    Attributes:
        name: what they are.
        unit: of them.
        values: float64; of the samples that have any.
        digits: behind the point.
        adds_up: whether their sum tells anything.
    """

    name: str
    unit: str
    values: np.ndarray
    digits: int = 0
    adds_up: bool = True


def run(options: argparse.Namespace) -> int:
    """Print the table; write the page where one is wanted."""
    if options.html is not None:
        check_writable(options.html, option="--html")
    corpus = open_shards(options.patterns)
    found = list(_numbers(corpus, options.text))
    glance = _glance(corpus)
    members, spreads = _members_grid(corpus), _spreads_grid(found)
    say(*(f"{name}: {value}" for name, value in glance.items()))
    members.print("table")
    spreads.print("table")
    if options.html is not None:
        with TemporaryDirectory() as folder:
            pictures = [
                figure(
                    _plot(one, Path(folder, f"{number}.png")),
                    caption=f"{one.name} ({len(one.values):,})",
                )
                for number, one in enumerate(found)
                if len(one.values)
            ]
            page = render(
                "shards.html",
                title="Shards",
                glance=glance,
                grids={"Members": members, "Spread": spreads},
                figures=pictures,
                samples=[],
                remark="Sizes of images, durations and sizes of members are those of the index.",
            )
        write_text(options.html, page)
        note(f"page: {options.html}")
    return 0


def caption_sources(there: Container[str]) -> list[str]:
    """Return where captions usually are, as far as there are such members."""
    return [source for source in _CAPTIONS if parse_source(source)[0] in there]


def _glance(corpus: Corpus) -> dict[str, str]:
    num_bytes = sum(shard.num_bytes for shard in corpus.shards)
    folders = list(dict.fromkeys(str(shard.path).rpartition("/")[0] for shard in corpus.shards))
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    return {
        "folder": f"{folders[0]}{more}",
        "shards": f"{len(corpus.shards):,} ({num_bytes / 1e6:,.1f} MB)",
        "samples": f"{len(corpus):,}",
        "fingerprint": corpus.fingerprint(),
    }


def _members_grid(corpus: Corpus) -> Grid:
    rows = []
    for extension, count in sorted(corpus.extensions().items(), key=lambda item: -item[1]):
        sizes = corpus.largest_member([extension])
        total, share = float(sizes.sum()), count / len(corpus)
        mean = f"{total / count / 1e3:,.1f}"
        rows.append((f".{extension}", f"{count:,}", f"{share:.1%}", f"{total / 1e6:,.1f}", mean))
    heads = (("samples", ""), ("share", ""), ("total", "MB"), ("mean", "KB"))
    columns = tuple(Column(name, unit, align="right") for name, unit in heads)
    return Grid((Column("member"), *columns), tuple(rows))


def _spreads_grid(found: Sequence[Numbers]) -> Grid:
    heads = ("count", "min", "5 %", "median", "95 %", "max", "mean", "total")
    columns = tuple(Column(name, align="right") for name in heads)
    rows = []
    for one in found:
        if not len(one.values):
            continue
        cells = [*np.quantile(one.values, _QUANTILES), one.values.mean(), one.values.sum()]
        texts = [f"{value:,.{one.digits}f}" for value in cells[:-2]]
        texts.append(f"{cells[-2]:,.{max(one.digits, 1)}f}")
        texts.append(f"{cells[-1]:,.{one.digits}f}" if one.adds_up else "")
        name = f"{one.name} ({one.unit})" if one.unit else one.name
        rows.append((name, f"{len(one.values):,}", *texts))
    return Grid((Column("what"), *columns), tuple(rows))


def _numbers(corpus: Corpus, given: Sequence[str] | None) -> Iterator[Numbers]:
    yield Numbers("shard", "samples", corpus.shard_sizes.astype(float))
    num_bytes = np.zeros(len(corpus))
    for extension in corpus.extensions():
        num_bytes += corpus.largest_member([extension])
    yield Numbers("sample", "KB", num_bytes / 1e3, digits=1)
    sizes = corpus.image_sizes[corpus.image_sizes[:, 0] > 0].astype(float)
    yield Numbers("image width", "px", sizes[:, 0], adds_up=False)
    yield Numbers("image height", "px", sizes[:, 1], adds_up=False)
    ratio = sizes[:, 0] / np.maximum(sizes[:, 1], 1)
    yield Numbers("image width / height", "", ratio, digits=2, adds_up=False)
    durations = corpus.durations[~np.isnan(corpus.durations)].astype(float)
    yield Numbers("sound", "s", durations, digits=2)
    there = corpus.extensions()
    sources = given or caption_sources(there)
    for source in given or ():
        if parse_source(source)[0] not in there:
            raise UserError(f"--text {source}: no sample has any; there is {', '.join(there)}")
    if not sources:
        return
    texts = list(_captions(corpus, sources))
    yield Numbers("sample", "captions", np.array([len(t) for t in texts], float))
    lengths = [(len(text), len(text.split())) for found in texts for text in found]
    lengths_N2 = np.array(lengths, float).reshape(-1, 2)
    yield Numbers("caption", "characters", lengths_N2[:, 0])
    yield Numbers("caption", "words", lengths_N2[:, 1])


def _captions(corpus: Corpus, sources: Sequence[str]) -> Iterator[list[str]]:
    extensions = extensions_of(sources)

    def read(number: int) -> list[str]:
        try:
            return Contents(corpus.read(number, extensions)).texts(list(sources))
        except (OSError, ValueError):
            return []  # `mmlight shards check` names it

    for _, texts in scan(range(len(corpus)), read, what="Reading", total=len(corpus)):
        yield texts


def _plot(one: Numbers, path: Path) -> Path:
    canvas = new_figure(width=5, height=3)
    axes = canvas.subplots()
    style(axes)
    low, high = np.quantile(one.values, (0.001, 0.999))
    shown = one.values[(one.values >= low) & (one.values <= high)]
    is_wide = low > 0 and high / low > 100
    if is_wide:
        bins = np.geomspace(low, high, _MOST_BINS)
        axes.set_xscale("log")
    else:
        bins = np.linspace(low, high if high > low else low + 1, _MOST_BINS)
    axes.hist(shown, bins=bins.tolist(), color=COLORS[0])
    axes.axvline(float(np.median(one.values)), color=COLORS[1], linewidth=1.2)
    axes.set_xlabel(f"{one.name} ({one.unit})" if one.unit else one.name, fontsize=9)
    axes.set_ylabel("count", fontsize=9)
    return save(canvas, path)
