"""The pins of constraints.txt: complete, bounded where it matters, and each with its hashes."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
    if not text.startswith("mmlight[")
]
PINS = {
    name: version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
}


def test_every_dependency_has_a_pin_within_its_bounds():
    for wanted in WANTED:
        assert wanted.specifier.contains(PINS[canonicalize_name(wanted.name)]), wanted


@pytest.mark.parametrize(
    "name",
    ["torch", "torchvision", "torchaudio", "lightning", "jsonargparse", "transformers", "wandb"],
)
def test_what_we_use_beyond_its_promises_has_an_upper_bound(name):
    (wanted,) = [r for r in WANTED if r.name == name]
    assert any(part.operator in ("<", "==", "~=") for part in wanted.specifier)


def test_every_pin_has_hashes_and_nothing_else_is_installed_with_them():
    hashed = re.findall(
        r"^([\w.-]+)==(\S+)(?: ;.*?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
        (ROOT / ".ci" / "hashes.txt").read_text(),
        re.MULTILINE,
    )
    assert {name: version for name, version, _ in hashed} == PINS


def test_what_is_installed_here_is_pinned():
    # What mmlight and its extras need, as far as it is there; not what else a user may have.
    left = [r.name for r in WANTED]
    seen: set[str] = set()
    while left:
        name = canonicalize_name(left.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        assert name in PINS, f"{name} has no pin: run .ci/pin"
        needs = [Requirement(text) for text in found]
        left += [n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
