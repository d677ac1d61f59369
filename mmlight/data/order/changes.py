"""What of the data and its order has changed since a checkpoint, in words."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from mmlight.errors import UserError

STATE_VERSION = 1
_MOST_NAMED = 3
# How the user knows what an order calls otherwise.
_SETTINGS = {"weights": "weight of the sources of data.train"}


def check_version(saved: Mapping[str, Any]) -> None:
    """Refuse a position that another version has written in another form.

    Raises:
        UserError: naming both versions.
    """
    if (version := saved.get("version")) != STATE_VERSION:
        raise UserError(
            f"cannot continue from this checkpoint: its data version is {version}, now it is "
            f"{STATE_VERSION}; train on with the version that wrote it"
        )


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what makes another order of training than that of a checkpoint, a phrase each.

    Args:
        saved: the data's state in the checkpoint.
        now: the same of what is there.
    """
    found: list[str] = []
    if saved.get("fingerprint") != now["fingerprint"]:
        found += _changed_sources(saved.get("sources"), now["sources"])
    for key in ("seed", "global_batch_size"):
        if saved.get(key) != now[key]:
            found.append(f"data.{key} was {saved.get(key)} and is {now[key]}")
    before, after = saved.get("order") or {}, now["order"]
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            name = _SETTINGS.get(key, f"data.{key}")
            found.append(f"{name} was {before.get(key)} and is {after.get(key)}")
    return found


def refusal(found: Sequence[str]) -> UserError:
    """Return what is said to whoever did not ask for changed data."""
    return UserError(
        f"cannot continue from this checkpoint: {'; '.join(found)}. Give the same again, or go on "
        "knowingly from the same epoch and step of the new order: --data.allow_changed true"
    )


class _Shard(NamedTuple):
    sha256: str
    kept: str
    num_samples: int
    name: str


def _shards(lines: str) -> list[_Shard]:
    """Read what `mmlight.data.shards.corpus.Corpus.contents` wrote."""
    rows = (line.split(" ", 3) for line in lines.split("\n"))
    return [_Shard(sha, kept, int(count), name) for sha, kept, count, name in rows]


def _changed_sources(saved: Sequence[str] | None, now: Sequence[str]) -> Iterator[str]:
    if saved is None:  # of an earlier version
        yield "the training shards have changed, or their chosen samples"
        return
    before, after = [_shards(one) for one in saved], [_shards(one) for one in now]
    if len(before) != len(after):
        parts = [f"data.train had {_count(len(before), 'source')} and has {len(after)}"]
        parts += _changed_shards(
            [s for one in before for s in one], [s for one in after for s in one]
        )
        yield ", ".join(parts)
        return
    for number, (old, new) in enumerate(zip_longest(before, after)):
        if old != new and (parts := list(_changed_shards(old, new))):
            where = "data.train" if len(after) == 1 else f"data.train[{number}]"
            yield f"{where} has changed: {', '.join(parts)}"


def _changed_shards(old: Sequence[_Shard], new: Sequence[_Shard]) -> Iterator[str]:
    """Yield what is other; shards that were merely moved or renamed are the same."""
    contents = Counter(shard.sha256 for shard in old) & Counter(shard.sha256 for shard in new)
    gone, come = _without(old, contents), _without(new, contents)
    rewritten = {shard.name for shard in gone} & {shard.name for shard in come}
    for word, shards in (
        ("rewritten", [shard for shard in come if shard.name in rewritten]),
        ("removed", [shard for shard in gone if shard.name not in rewritten]),
        ("added", [shard for shard in come if shard.name not in rewritten]),
    ):
        if shards:
            yield f"{word} {_named(shards)}"
    kept_before, kept_now = _by_content(old, contents), _by_content(new, contents)
    if kept_before.keys() == kept_now.keys():
        others = [sha for sha in kept_now if kept_before[sha] != kept_now[sha]]
        if others:
            yield f"other samples are chosen of {_count(len(others), 'shard')}"
    if not gone and not come and [s.sha256 for s in old] != [s.sha256 for s in new]:
        first = next(b for a, b in zip(old, new, strict=True) if a.sha256 != b.sha256)
        yield f"the shards come in another order, from {first.name} on"
    sizes = [sum(shard.num_samples for shard in shards) for shards in (old, new)]
    if sizes[0] != sizes[1]:
        before = f"{sizes[0]:,} samples in {_count(len(old), 'shard')}"
        yield f"{before} then, {sizes[1]:,} in {len(new)} now"


def _without(shards: Iterable[_Shard], contents: Counter[str]) -> list[_Shard]:
    left, others = Counter(contents), []
    for shard in shards:
        if left[shard.sha256]:
            left[shard.sha256] -= 1
        else:
            others.append(shard)
    return others


def _by_content(shards: Iterable[_Shard], contents: Counter[str]) -> dict[str, list[str]]:
    kept = defaultdict(list)
    for shard in shards:
        if shard.sha256 in contents:
            kept[shard.sha256].append(shard.kept)
    return dict(kept)


def _named(shards: Sequence[_Shard]) -> str:
    names = ", ".join(shard.name for shard in shards[:_MOST_NAMED])
    more = f" and {len(shards) - _MOST_NAMED:,} more" if len(shards) > _MOST_NAMED else ""
    total = sum(shard.num_samples for shard in shards)
    return f"{names}{more} ({_count(total, 'sample')})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
