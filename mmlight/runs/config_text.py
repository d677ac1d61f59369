"""Single values of a saved configuration, without parsing all of it: YAML is slow to parse."""

import re
from typing import Any

import yaml

_KEY = re.compile(r"( *)([^\s:'\"#-][^:]*):(?: (.*))?$")


def raw_values(text: str) -> dict[str, str]:
    """Return the YAML of each value by dotted key.

    Args:
        text: a file as `yaml.safe_dump` writes mappings (`config.yaml` of a run folder).
    """
    values: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    key, depth = "", 0
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        # The lines of a list begin with a dash at the depth of its key; what lies deeper is part
        # of a list, or a further line of a long text.
        item = indent == depth and line.startswith("- ", indent)
        if key and (item or (values[key] and (indent > depth or not line))):
            values[key] += f"\n{line}"
            continue
        match = _KEY.match(line)
        if match is None:
            continue
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, match[2]))
        key, depth = ".".join(name for _, name in above), indent
        values[key] = match[3] or ""
    return {name: value for name, value in values.items() if value}


def look_up(values: dict[str, str], key: str) -> Any:
    """Return a value; None where there is none.

    Args:
        values: as `raw_values` gives them.
        key: dotted; its end is enough, and `init_args` may be left out: ``optimizer.lr``.
    """
    for name, value in values.items():
        if name == key or f".{name}".endswith(f".{key}"):
            return yaml.safe_load(value)
    for name, value in values.items():
        if f".{name.replace('init_args.', '')}".endswith(f".{key}"):
            return yaml.safe_load(value)
    return None
