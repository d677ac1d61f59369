"""`mmlight fit|validate|test|predict`."""

from collections.abc import Sequence
from contextlib import suppress

from mmlight import yaml_text
from mmlight.cli.help import asks_for_all, show_classes, show_help
from mmlight.experiment.arguments import INLINE, expand_configs, join_values
from mmlight.experiment.build import ROOTS, MmlightCLI
from mmlight.experiment.quiet import quieten
from mmlight.interop.saved_config import own_config


def main(arguments: Sequence[str]) -> int:
    """Run one of the training verbs.

    Raises:
        UserError: anything a user did wrong.
    """
    quieten()
    verb = arguments[0]
    rest, name = expand_configs(arguments[1:])
    if show_help(verb, rest, ROOTS):
        return 0
    if asks_for_all(rest):
        with suppress(SystemExit):
            MmlightCLI([verb, "--help"], default_name=name)
        show_classes(verb, rest)
        return 0
    if verb == "predict":
        flags = [
            f"--data.{at}predict.{key}" for at in ("", "init_args.") for key in ("files", "text")
        ]
        rest = join_values(rest, flags)
        if not any(argument.startswith(INLINE) for argument in rest):
            own = own_config(rest)
            rest = [f"{INLINE}{yaml_text.dump(own.values)}", *own.arguments]
            name = own.name
    cli = MmlightCLI([verb, *rest], default_name=name)
    return cli.exit_code()
