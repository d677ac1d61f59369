"""``mmlight papers``: what papers report, and what their recipes come to here."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlight.commands.init import material_folder
from mmlight.commands.papers_run import run_card
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.papers.card import FOLDER, README, RESULTS, Card, Recipe, find_cards
from mmlight.runs.papers.figures import Cost, overview, update_readme
from mmlight.runs.papers.page import page_of
from mmlight.runs.papers.recording import Repeats, card_of, gather_runs, record
from mmlight.runs.papers.results import write_results
from mmlight.runs.show.grid import FORMATS
from mmlight.terminal import say

_VERBS = ("list", "run", "record", "readme", "page")


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight papers``.

    Raises:
        UserError: an unknown card, one that does not hold what it should, or runs that do not fit.
    """
    # `mmlight papers` and `mmlight papers bert` list.
    given = list(argv)
    if not {"-h", "--help"} & set(given) and (not given or given[0] not in _VERBS):
        given.insert(0, "list")
    options, more = _parser().parse_known_args(given)
    if options.verb == "run":
        options.more = [*options.more, *more]
    elif more:
        raise UserError(f"papers {options.verb}: unknown argument {more[0]}")
    options.papers = options.papers or _cards_folder(writes=options.verb not in ("list", "page"))
    acts = {"list": _list, "run": _run, "record": _record, "readme": _readme, "page": _page}
    return acts[options.verb](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmlight papers",
        description="Cards of papers, a folder each: their recipes as experiments, what was "
        "reported, what came out here.",
        epilog="`mmlight papers` alone lists all cards.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    about = {
        "list": "what was reported, and what was reproduced",
        "run": "check the data of a card, train it as its seeds or folds, record and compare",
        "record": "write what finished runs came to into their card's results.json and README",
        "readme": "write the figures of cards into their READMEs",
        "page": "write all cards into one page that needs no network",
    }
    made = {
        verb: verbs.add_parser(verb, help=text, description=text) for verb, text in about.items()
    }
    for verb in ("list", "readme", "page"):
        made[verb].add_argument("cards", nargs="*", metavar="CARD", help="only these")
    made["list"].add_argument("--format", choices=FORMATS, default="table")
    for verb in ("list", "page"):
        text = "also what each recipe is foretold to cost on this device (a100, h100, ...)"
        made[verb].add_argument("--device", help=text)
    text = "where to (default: %(default)s)"
    made["page"].add_argument("--out", type=Path, default=Path("papers.html"), help=text)
    add = made["run"].add_argument
    add("card", metavar="CARD[/EXPERIMENT]", help="all of its experiments, or one")
    add("more", nargs="*", metavar="--SETTING VALUE", help="further arguments of mmlight fit")
    add = made["record"].add_argument
    add("runs", nargs="+", metavar="RUN", help="a run for each seed, or a folder of mmlight folds")
    text = "the experiment, where the runs' name does not say it (CARD-EXPERIMENT does)"
    add("--as", dest="named", metavar="CARD/EXPERIMENT", help=text)
    text = "what differs from the recipe, beside settings, which are compared; may be repeated"
    add("--deviation", action="append", default=[], metavar="TEXT", help=text)
    add("--kwh", type=float, help="the energy of all runs together, where it is known")
    add("--why", metavar="TEXT", help="what explains a miss")
    for verb in ("run", "record"):
        text = "the folder of all runs (default: runs)"
        made[verb].add_argument("--root", type=Path, default=Path("runs"), help=text)
    for one in made.values():
        text = f"the folder of the cards (default: {FOLDER}; without it, those of the installation)"
        one.add_argument("--papers", type=Path, metavar="FOLDER", help=text)
    return parser


def _cards_folder(*, writes: bool) -> Path:
    """Return the cards of the working directory, else those that came with the package.

    Raises:
        UserError: there are none here, and a verb would write into the installation.
    """
    own = Path(FOLDER)
    if own.is_dir():
        return own
    if writes:
        raise UserError(
            f"no cards here: {FOLDER} is not there, and it is written to; `mmlight init .` makes "
            "it, or --papers names another folder"
        )
    return material_folder(FOLDER)


def _list(options: argparse.Namespace) -> int:
    cards = find_cards(options.papers, options.cards)
    overview(cards, costs=_costs(cards, options)).print(options.format, title="Papers")
    return 0


def _page(options: argparse.Namespace) -> int:
    cards = find_cards(options.papers, options.cards)
    write_text(options.out, page_of(cards, costs=_costs(cards, options), device=options.device))
    say(f"page: {options.out}")
    return 0


def _costs(cards: Sequence[Card], options: argparse.Namespace) -> dict[Path, Cost] | None:
    if options.device is None:
        return None
    from mmlight.commands.papers_cost import foretell_cards  # torch

    return foretell_cards(cards, device=options.device)


def _run(options: argparse.Namespace) -> int:
    def record_all(card: Card, recipe: Recipe, runs: Sequence[str]) -> None:
        _record_as(card, recipe, gather_runs(runs, root=options.root))

    run_card(options, record_all)
    return 0


def _readme(options: argparse.Namespace) -> int:
    for card in find_cards(options.papers, options.cards):
        if update_readme(card):
            say(f"wrote {card.folder / README}")
    return 0


def _record(options: argparse.Namespace) -> int:
    if options.kwh is not None and options.kwh < 0:
        raise UserError(f"--kwh {options.kwh}: must not be negative")
    named = _named(options)
    repeats = gather_runs(options.runs, root=options.root)
    card, recipe = named or card_of(repeats.runs, find_cards(options.papers))
    told = {"deviations": options.deviation, "kwh": options.kwh, "why": options.why}
    _record_as(card, recipe, repeats, **told)
    return 0


def _record_as(card: Card, recipe: Recipe, repeats: Repeats, **told: Any) -> None:
    from mmlight.experiment.parser import resolve  # torch, which a list does without

    files = [str(card.folder / file) for file in (recipe.file, *recipe.with_files)]
    config, _ = resolve(["fit", *(word for file in files for word in ("-c", file))])
    write_results(card, record(card, recipe, repeats, config=config, **told))
    update_readme(card)
    overview([card], file=recipe.file).print()
    say(f"recorded in {card.folder / RESULTS}")


def _named(options: argparse.Namespace) -> tuple[Card, Recipe] | None:
    if options.named is None:
        return None
    name, slash, file = options.named.partition("/")
    if not slash:
        raise UserError(f"--as {options.named}: needs CARD/EXPERIMENT, such as kim2014/trec")
    (card,) = find_cards(options.papers, [name])
    return card, card.recipe(file)
