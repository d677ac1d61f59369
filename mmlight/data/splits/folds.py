"""Cross-validation over the shards of an experiment: which samples each fold leaves out.

A fold is written as filters of the data's splits (see `Split`), so that its run is an ordinary one.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mmlight.data.members import Members
from mmlight.data.splits.metadata import is_fold, read_values
from mmlight.data.splits.split import Split, open_split
from mmlight.errors import UserError, nearest

_FILTERS = ("only", "without")
_MAX_FOLDS = 100


@dataclass(frozen=True)
class Fold:
    """One part of the samples, left out of training and scored.

    Attributes:
        name: names its run; letters, digits, dots, dashes and underscores.
        source: the metadata that tells the parts apart, as in `Split.only`.
        values: those of the part.
        num_samples: samples in it.
    """

    name: str
    source: str
    values: tuple[str, ...]
    num_samples: int


@dataclass(frozen=True)
class Folds:
    """The folds of an experiment.

    Attributes:
        folds: in order.
        num_samples: samples of all of training's shards.
        num_unknown: those of them that have no such metadata, and so are always trained on.
        in_train: which of the values each source of training has.
        in_val: which of them the validation split has.
    """

    folds: tuple[Fold, ...]
    num_samples: int
    num_unknown: int
    in_train: tuple[frozenset[str], ...]
    in_val: frozenset[str]


def find_folds(
    data: Mapping[str, Any],
    *,
    field: str | None,
    k: int | None,
    values: Sequence[str] | None = None,
) -> Folds:
    """Return the folds of a data module's training shards.

    Args:
        data: the module's arguments as plain values, with every default filled in.
        field: metadata whose values are left out one after another, such as ``json:speaker``;
            with `k`, groups of values with about equally many samples.
        k: the number of folds; without `field`, samples are dealt out label by label.
        values: only these folds (by value, or by number with `k`); None for all.

    Raises:
        UserError: neither `field` nor `k`, no such field or value, or fewer than two folds.
    """
    if field is None and k is None:
        raise UserError("folds: give --field (such as json:speaker), --k, or both")
    if field is not None and is_fold(field):
        raise UserError(f"folds: --field {field}: write --k {field.partition(':')[2]} instead")
    source = field if field is not None else f"fold:{k}"
    if not (train := data.get("train")):
        raise UserError("folds: data.train.shards is not set; name the shards of all folds there")
    parts = train if isinstance(train, list) else [train]
    filtered = [source for part in parts for name in _FILTERS for source in part[name] or {}]
    if field is None and any(map(is_fold, filtered)):
        raise UserError("folds: data.train has a filter `fold:` already; leave one of them out")
    found = []
    for number, part in enumerate(parts):
        where = "data.train" if len(parts) == 1 else f"data.train[{number}]"
        found.append(_values(part, data, source, where=where))
    counts = Counter(value for values_of in found for value in values_of if value is not None)
    num_samples = sum(map(len, found))
    groups: list[tuple[str, ...]] = [(value,) for value in sorted(counts, key=_natural)]
    if field is not None and k is not None:
        groups = _group(counts, k, field=field)
    if len(groups) < 2:
        raise UserError(f"folds: all samples have the same {source} ({groups[0][0]}); nothing left")
    if values is None and len(groups) > _MAX_FOLDS:
        raise UserError(
            f"folds: {source} has {len(groups)} values; put them into --k groups, or choose some "
            "with --values"
        )
    names = _names(groups, numbered=k is not None)
    chosen = _chosen(names, groups, values, numbered=k is not None)
    folds = [
        Fold(names[i], source, groups[i], sum(counts[value] for value in groups[i])) for i in chosen
    ]
    return Folds(
        tuple(folds),
        num_samples=num_samples,
        num_unknown=num_samples - counts.total(),
        in_train=tuple(_known(values_of) for values_of in found),
        in_val=_in_val(data, source),
    )


def fold_data(data: Mapping[str, Any], fold: Fold, folds: Folds) -> dict[str, Any]:
    """Return the data module's arguments for one fold.

    Training goes without the fold, and so does validation where it has samples of it; the fold
    becomes the test split. `data` are plain values with every default filled in.

    Raises:
        UserError: sources of a mixture that cannot be one test split, or nothing to validate on.
    """
    result = deepcopy(dict(data))
    values = list(fold.values)
    trained = result["train"] if isinstance(result["train"], list) else [result["train"]]
    test = _test_split(trained, members=(data.get("test") or {}).get("members"))
    test["only"] = {**(test["only"] or {}), fold.source: values}
    result["test"] = test
    for part, there in zip(trained, folds.in_train, strict=True):
        in_part = [value for value in values if value in there]
        if in_part:
            part["without"] = _joined(part["without"], fold.source, in_part)
    in_val = [value for value in values if value in folds.in_val]
    if in_val and not is_fold(fold.source):
        if set(in_val) == folds.in_val:
            raise UserError(
                f"folds: data.val has no sample but those of {fold.source} {', '.join(in_val)}, "
                f"which fold {fold.name} leaves out; leave data.val out"
            )
        result["val"]["without"] = _joined(result["val"]["without"], fold.source, in_val)
    return result


def _values(
    part: Mapping[str, Any], data: Mapping[str, Any], source: str, *, where: str
) -> list[str | None]:
    split = Split(**{**part, "members": None, "per_class": None})
    members = Members(**(part["members"] or data["members"]))
    seed = int(data["seed"])
    corpus = open_split(split, members=members, seed=seed, where=where)
    return read_values(corpus, [source], members=members, seed=seed, where="folds: --field")[source]


def _in_val(data: Mapping[str, Any], source: str) -> frozenset[str]:
    val = data.get("val")
    if not val or is_fold(source):
        return frozenset()
    try:
        return _known(_values(val, data, source, where="data.val"))
    except UserError:
        return frozenset()  # it has no such metadata: nothing to leave out


def _known(values: Sequence[str | None]) -> frozenset[str]:
    return frozenset(value for value in values if value is not None)


def _test_split(trained: Sequence[Mapping[str, Any]], *, members: Any) -> dict[str, Any]:
    first = trained[0]
    for key in ("members", *_FILTERS):
        if any(part[key] != first[key] for part in trained):
            raise UserError(
                f"folds: the sources of data.train differ in {key}, so that they can't be one test "
                "split; give them the same"
            )
    shards = [part["shards"] for part in trained]
    listed = [s for given in shards for s in (given if isinstance(given, list) else [given])]
    plain = {"weight": 1.0, "per_class": None, "members": members or first["members"]}
    return {**deepcopy(dict(first)), **plain, "shards": listed}


def _joined(filters: Mapping[str, Any] | None, source: str, values: list[str]) -> dict[str, Any]:
    before = (filters or {}).get(source, [])
    listed = before if isinstance(before, list) else [before]
    return {**(filters or {}), source: [*listed, *values]}


def _group(counts: Mapping[str, int], k: int, *, field: str) -> list[tuple[str, ...]]:
    """Put values into `k` groups, the largest first into the group that is smallest by then."""
    if not 2 <= k <= len(counts):
        raise UserError(
            f"folds: --k {k} groups of {field}, which has {len(counts)} values; use 2 to "
            f"{len(counts)}"
        )
    groups: list[list[str]] = [[] for _ in range(k)]
    sizes = [0] * k
    for value in sorted(counts, key=lambda v: (-counts[v], _natural(v))):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(value)
        sizes[smallest] += counts[value]
    return [tuple(sorted(group, key=_natural)) for group in groups]


def _names(groups: Sequence[tuple[str, ...]], *, numbered: bool) -> list[str]:
    if numbered:
        return [f"fold{number}" for number in range(len(groups))]
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", group[0]) for group in groups]
    return [
        f"{number}_{name}" if names.count(name) > 1 or not name else name
        for number, name in enumerate(names)
    ]


def _chosen(
    names: Sequence[str],
    groups: Sequence[tuple[str, ...]],
    values: Sequence[str] | None,
    *,
    numbered: bool,
) -> list[int]:
    if values is None:
        return list(range(len(groups)))
    known = [str(i) for i in range(len(groups))] if numbered else [group[0] for group in groups]
    for value in values:
        if value not in known:
            raise UserError(
                f"folds: --values: there is no '{value}'{nearest(value, known)}; there is "
                f"{', '.join(known)}"
            )
    return [i for i, value in enumerate(known) if value in values]


def _natural(value: str) -> tuple[bool, float, str]:
    """Sort numbers as numbers, before words."""
    is_number = re.fullmatch(r"-?\d+(\.\d+)?", value) is not None
    return not is_number, float(value) if is_number else 0.0, value
