"""``mmlight papers``: what papers report, and what their recipes come to here."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.papers.card import FOLDER, README, RESULTS, Card, Recipe, find_cards
from mmlight.runs.papers.figures import overview, update_readme
from mmlight.runs.papers.recording import card_of, gather_runs, record
from mmlight.runs.papers.results import write_results
from mmlight.runs.show.grid import FORMATS
from mmlight.terminal import say

_VERBS = ("list", "record", "readme")


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight papers``.

    Raises:
        UserError: an unknown card, one that does not hold what it should, or runs that do not fit.
    """
    # `mmlight papers` and `mmlight papers bert` list.
    given = list(argv)
    if not {"-h", "--help"} & set(given) and (not given or given[0] not in _VERBS):
        given.insert(0, "list")
    options = _parser().parse_args(given)
    act = {"list": _list, "record": _record, "readme": _readme}[options.verb]
    return act(options)


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
        "record": "write what finished runs came to into their card's results.json and README",
        "readme": "write the figures of cards into their READMEs",
    }
    made = {
        verb: verbs.add_parser(verb, help=text, description=text) for verb, text in about.items()
    }
    for verb in ("list", "readme"):
        made[verb].add_argument("cards", nargs="*", metavar="CARD", help="only these")
    made["list"].add_argument("--format", choices=FORMATS, default="table")
    add = made["record"].add_argument
    add("runs", nargs="+", metavar="RUN", help="a run for each seed, or a folder of mmlight folds")
    text = "the experiment, where the runs' name does not say it (CARD-EXPERIMENT does)"
    add("--as", dest="named", metavar="CARD/EXPERIMENT", help=text)
    text = "what differs from the recipe, beside settings, which are compared; may be repeated"
    add("--deviation", action="append", default=[], metavar="TEXT", help=text)
    add("--kwh", type=float, help="the energy of all runs together, where it is known")
    add("--why", metavar="TEXT", help="what explains a miss")
    add("--root", type=Path, default=Path("runs"), help="the folder of all runs (default: runs)")
    for one in made.values():
        text = f"the folder of the cards (default: {FOLDER})"
        one.add_argument("--papers", type=Path, default=Path(FOLDER), metavar="FOLDER", help=text)
    return parser


def _list(options: argparse.Namespace) -> int:
    cards = find_cards(options.papers, options.cards)
    overview(cards).print(options.format, title="Papers")
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
    from mmlight.experiment.parser import resolve  # torch, which a list does without

    files = [str(card.folder / file) for file in (recipe.file, *recipe.with_files)]
    config, _ = resolve(["fit", *(word for file in files for word in ("-c", file))])
    found = record(
        card,
        recipe,
        repeats,
        config=config,
        deviations=options.deviation,
        kwh=options.kwh,
        why=options.why,
    )
    write_results(card, found)
    update_readme(card)
    overview([card], file=recipe.file).print()
    say(f"recorded in {card.folder / RESULTS}")
    return 0


def _named(options: argparse.Namespace) -> tuple[Card, Recipe] | None:
    if options.named is None:
        return None
    name, slash, file = options.named.partition("/")
    if not slash:
        raise UserError(f"--as {options.named}: needs CARD/EXPERIMENT, such as kim2014/trec")
    (card,) = find_cards(options.papers, [name])
    return card, card.recipe(file)
