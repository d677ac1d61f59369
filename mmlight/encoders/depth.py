"""Cuts a backbone into blocks in depth order, each parameter in exactly one of them."""

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn

from mmlight.encoders.encoder import Block

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def cut_into_blocks(root: nn.Module, groups: Sequence[Iterable[str]]) -> list[Block]:
    """Turn groups of parameter names, in depth order, into blocks of modules.

    A group is covered by the largest modules whose parameters all belong to it. A module whose
    class recurs (a transformer layer, a residual block) becomes a block of its own, marked as
    repeated; the rest of its group stays together. Parameters that hang on a module which is
    spread over several groups (a ViT's class token) are wrapped in a ``ParameterList``.

    Args:
        root: the encoder.
        groups: names as in ``root.named_parameters()``; each name in exactly one group.
    """
    group_of_name = {name: index for index, group in enumerate(groups) for name in group}
    group_of_parameter = {id(p): group_of_name[name] for name, p in root.named_parameters()}
    pieces: list[list[tuple[str, nn.Module]]] = [[] for _ in groups]

    def cover(module: nn.Module, name: str) -> None:
        owners = {group_of_parameter[id(p)] for p in module.parameters()}
        if len(owners) == 1 and type(module) not in _CONTAINERS:
            pieces[owners.pop()].append((name, module))
        elif owners:
            for own_name, parameter in module.named_parameters(recurse=False):
                pieces[group_of_parameter[id(parameter)]].append(
                    (f"{name}.{own_name}".lstrip("."), nn.ParameterList([parameter]))
                )
            for child_name, child in module.named_children():
                cover(child, f"{name}.{child_name}".lstrip("."))

    cover(root, "")
    counts = Counter(type(m) for piece in pieces for _, m in piece if _is_composite(m))
    blocks: list[Block] = []
    for piece in pieces:
        rest: list[tuple[str, nn.Module]] = []
        for name, module in piece:
            if counts[type(module)] < 2:
                rest.append((name, module))
                continue
            if rest:
                blocks.append(_joined(rest))
                rest = []
            blocks.append(Block(name=name, modules=(module,), repeated=True))
        if rest:
            blocks.append(_joined(rest))
    return blocks


def _is_composite(module: nn.Module) -> bool:
    """Tell layers of several operations from single ones (a norm with its activation)."""
    return sum(1 for m in module.modules() if m._parameters) > 1


def _joined(pieces: list[tuple[str, nn.Module]]) -> Block:
    return Block(name=pieces[0][0], modules=tuple(m for _, m in pieces), repeated=False)
