"""``mmlight fit|validate|test|predict``."""

from collections.abc import Sequence

from mmlight.experiment.arguments import gather


def main(arguments: Sequence[str]) -> int:
    """Run one of the four verbs.

    Args:
        arguments: the verb and what follows it.

    Raises:
        UserError: anything a user did wrong.
    """
    verb, rest = arguments[0], arguments[1:]
    flags = [argument.partition("=")[0] for argument in rest]
    asks_for_all = "--help" in flags or "-h" in flags
    if asks_for_all or any(flag.endswith(".help") for flag in flags):
        from mmlight.experiment.help import show_classes, show_help
        from mmlight.experiment.messages import quieten
        from mmlight.experiment.parser import make_parser

        quieten()
        given = gather(verb, rest)
        if show_help(verb, given):
            return 0
        if asks_for_all:
            make_parser(verb).print_help()
            show_classes(verb, given)
            return 0
    from mmlight.experiment.build import build  # help does without all that trains

    return build(verb, rest, keeps_console=True).run()
