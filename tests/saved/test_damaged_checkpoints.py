"""A damaged checkpoint is refused in one line; what loads is what was written."""

import logging
import random
import shutil
import struct
import zipfile

import pytest
import torch
from tasks import tiny
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.saved.checkpoint import Saved, read_checkpoint, read_saved, write_export
from mmlight.saved.checksums import file_checksum, write_list
from mmlight.saved.locate import META
from mmlight.trainer.checkpoint_files import find_whole

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def checkpoint() -> dict:
    torch.manual_seed(0)
    task = tiny.task()
    own = {
        "version": 1,
        "task": task.rebuild_description(),
        "preprocessing": {"image": {"size": 16}},
    }
    return {
        "mmlight": own,
        "state_dict": task.state_dict(),
        "loops": {"step": 7},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": []}],
    }


@pytest.fixture(scope="module")
def written():
    return checkpoint()


@pytest.fixture
def file(written, tmp_path):
    path = tmp_path / "whole.ckpt"
    torch.save(written, path)
    return path


def records(path):
    """Return (start of the header, start of the data, size) of each record."""
    content = path.read_bytes()
    found = []
    with zipfile.ZipFile(path) as archive:
        for one in archive.infolist():
            lengths = struct.unpack_from("<2H", content, one.header_offset + 26)
            start = one.header_offset + 30 + sum(lengths)
            found.append((one.header_offset, start, one.file_size))
        return found, archive.start_dir


def flip(content, draws, low, high):
    changed = bytearray(content)
    changed[draws.randrange(low, high)] ^= 1 << draws.randrange(8)
    return bytes(changed)


def damages(path, draws):
    """Return one damaged content of each kind."""
    content = path.read_bytes()
    parts, directory = records(path)
    header, start, size = draws.choice(parts)
    cut = draws.randrange(len(content))
    length = draws.randrange(1, 200)
    yield "bit", flip(content, draws, 0, len(content))
    yield "bit of a record", flip(content, draws, start, start + size)
    yield "bit of a header", flip(content, draws, header, start)
    yield "bit of data.pkl", flip(content, draws, parts[0][1], sum(parts[0][1:]))
    yield "bit of the directory", flip(content, draws, directory, len(content))
    yield "byte lost", content[:cut] + content[cut + 1 :]
    yield "byte more", content[:cut] + b"\0" + content[cut:]
    yield "cut", content[:cut]
    yield "zeros at the end", content[:cut] + bytes(len(content) - cut)
    yield "zeros", content[:cut] + bytes(length) + content[cut + length :]
    yield "header of zeros", content[:header] + bytes(30) + content[header + 30 :]
    yield "appended", content + draws.randbytes(length)
    yield "before", draws.randbytes(length) + content
    yield "twice", content + content
    other = draws.choice(parts)
    same = min(size, other[2])
    if other[1] != start and content[start : start + same] != content[other[1] : other[1] + same]:
        changed = bytearray(content)
        changed[start : start + same] = content[other[1] : other[1] + same]
        changed[other[1] : other[1] + same] = content[start : start + same]
        yield "swapped records", bytes(changed)


def equal(found, wanted) -> bool:
    if isinstance(wanted, torch.Tensor):
        return isinstance(found, torch.Tensor) and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(equal(found[k], v) for k, v in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(equal, found, wanted))
    return found == wanted


def silent(read, path, wanted) -> bool | None:
    """Return None for a refusal in one line, else whether other values were read."""
    try:
        found = read(path)
    except UserError as error:
        assert str(path) in str(error) and str(error).isprintable()
        return None
    return not equal(found, wanted)


def count(written, file, folder, rounds):
    draws = random.Random(rounds)
    refused = total = 0
    for number in range(rounds):
        for kind, content in damages(file, draws):
            path = folder / f"{number}.ckpt"
            path.write_bytes(content)
            was = silent(read_checkpoint, path, written)
            assert not was, f"{kind}: other values, without a word"
            refused += was is None
            total += 1
            path.unlink()
    return refused, total


def test_two_hundred_damages_of_one_file(written, file, tmp_path):
    refused, total = count(written, file, tmp_path, rounds=14)
    assert total >= 200 and refused > 0.85 * total
    assert equal(read_checkpoint(file), written)


@pytest.mark.slow
def test_ten_thousand_damages_of_one_file(written, file, tmp_path):
    refused, total = count(written, file, tmp_path, rounds=700)
    assert total >= 10_000 and refused > 0.85 * total


def as_export(written, folder):
    own = written["mmlight"]
    write_export(folder, Saved(own["task"], own["preprocessing"], written["state_dict"]))


def as_parts(written, folder):
    rest = {k: v for k, v in written.items() if k not in ("state_dict", "optimizer_states")}
    save_parts({"state_dict": written["state_dict"]}, checkpoint_id=folder, no_dist=True)
    torch.save(rest, folder / META)
    write_list(folder, {path.name: file_checksum(path) for path in folder.iterdir()})


@pytest.mark.parametrize("write", [as_export, as_parts])
def test_two_hundred_damages_of_a_folder(written, tmp_path, write):
    whole = tmp_path / "whole"
    write(written, whole)
    own = written["mmlight"]
    wanted = [own["task"], own["preprocessing"], dict(written["state_dict"])]

    def read(path):
        saved = read_saved(path)
        return [saved.description, saved.preprocessing, {n: saved.tensors[n] for n in wanted[2]}]

    assert equal(read(whole), wanted)
    draws = random.Random(1)
    files = sorted(path.name for path in whole.iterdir())
    for number in range(200):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        path = folder / files[number % len(files)]
        content = path.read_bytes()
        cut = draws.randrange(len(content))
        path.write_bytes(
            draws.choice(
                [
                    flip(content, draws, 0, len(content)),
                    content[:cut],
                    content[:cut] + bytes(len(content) - cut),
                    content + b"\0",
                ]
            )
        )
        if path.read_bytes() != content:
            assert not silent(read, folder, wanted), path.name
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["bit of a record", "header of zeros", "cut", "appended"])
def test_auto_takes_the_one_before_and_names_the_damaged(written, file, tmp_path, caplog, kind):
    run = Run.create(tmp_path / "runs", name="n", run_id="a")
    run.checkpoints.mkdir(exist_ok=True)
    before = run.checkpoints / "step-00000001.ckpt"
    newest = run.checkpoints / "step-00000002.ckpt"
    shutil.copy(file, before)
    newest.write_bytes(dict(damages(file, random.Random(3)))[kind])
    with caplog.at_level(logging.WARNING):
        assert find_whole(run) == before
    assert "step-00000002.ckpt" in caplog.text and "going on from" in caplog.text


def test_trainers_own_reader_and_a_tower_name_the_file(file, tmp_path):
    from mmlight.tasks.source import read_source
    from mmlight.trainer.checkpoints import AtomicCheckpointIO

    path = tmp_path / "b.ckpt"
    path.write_bytes(dict(damages(file, random.Random(3)))["bit of a record"])
    for read in (
        lambda: AtomicCheckpointIO().load_checkpoint(path),
        lambda: read_source(str(path), "image"),
    ):
        with pytest.raises(UserError, match=r"b\.ckpt: is damaged: 'whole/data"):
            read()
