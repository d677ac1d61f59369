import subprocess
import tarfile

import pytest
from shard_files import text_shard

from mmlight.data.packing.write import pack
from mmlight.data.scenes.shards import SceneSettings, make
from mmlight.data.shards import seal
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.storage import OpenShard
from mmlight.data.shards_command import main
from mmlight.errors import UserError


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.delenv("MMLIGHT_INDEX_DIR", raising=False)


@pytest.fixture
def packed(tmp_path):
    samples = ({"__key__": f"{n:03d}", "txt": f"caption {n} " * 90, "cls": n} for n in range(43))
    pack(samples, tmp_path / "packed")
    path = tmp_path / "packed" / "00000.tar"
    path.with_name("00000.tar.index").unlink()
    return path


def lose(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def test_a_flipped_bit_of_a_text_is_noticed_by_index_and_check(packed, capsys):
    lose(packed, lambda data: data.__setitem__(data.index(b"caption 7"), ord("k")))
    with pytest.raises(
        UserError, match=r"00000\.tar: its members are not those that were packed.*"
    ):
        main(["index", str(packed)])
    assert main(["check", str(packed)]) == 1
    assert "copy or download it again" in capsys.readouterr().out


def test_last_samples_lost_in_the_padding_are_noticed(packed):
    def zeros(data):
        at = data.index(b"042.cls")
        data[at:] = bytes(len(data) - at)

    lose(packed, zeros)
    with pytest.raises(UserError, match="its members are not those that were packed"):
        load_or_build([packed])


@pytest.mark.parametrize("place", [100, 515, 520, 535, 560, 600])
def test_damage_to_the_seal_itself_is_no_licence(packed, place):
    lose(packed, lambda data: data.__setitem__(place, data[place] ^ 1))
    with pytest.raises(UserError, match=r"00000\.tar"):
        load_or_build([packed])


@pytest.mark.parametrize("num_bytes", [1024, 1024 + 2560])
def test_a_lost_beginning_is_noticed(packed, num_bytes):
    lose(packed, lambda data: data.__delitem__(slice(0, num_bytes)))
    with pytest.raises(UserError, match="the checksum at its beginning is damaged"):
        load_or_build([packed])


@pytest.mark.parametrize("size", range(0, 11 * 1024, 512))
def test_shards_of_every_length_are_whole_records(tmp_path, size):
    with seal.SealedWriter(tmp_path / "0.tar") as writer:
        writer.add("0.bin", b"x" * size)
    assert (tmp_path / "0.tar").stat().st_size % 10240 == 0
    assert load_or_build([tmp_path / "0.tar"])[0].num_samples == 1
    listed = subprocess.run(["tar", "-tf", tmp_path / "0.tar"], capture_output=True, check=True)
    assert (listed.stdout, listed.stderr) == (b"0.bin\n", b"")
    with tarfile.open(tmp_path / "0.tar", "r|*") as file:
        assert [member.name for member in file] == ["0.bin"]


def test_a_sealed_shard_in_the_middle_of_another_is_refused(packed, tmp_path):
    other = text_shard(tmp_path / "other.tar", 1)
    content = other.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    other.write_bytes(content + packed.read_bytes())
    with pytest.raises(UserError, match="the beginning of a shard in the middle"):
        load_or_build([other])


def test_the_seal_is_not_unpacked_and_a_tar_of_the_files_is_good(packed, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    subprocess.run(["tar", "-xf", packed, "-C", folder], check=True)
    assert len(list(folder.iterdir())) == 86
    (folder / "003.txt").write_text("changed on purpose")
    again = tmp_path / "again.tar"
    names = sorted(path.name for path in folder.iterdir())
    subprocess.run(["tar", "-cf", again, "-C", folder, *names], check=True)
    assert seal.read(OpenShard(again)) is None
    assert load_or_build([again])[0].num_samples == 43


def test_other_readers_say_nothing_of_the_seal(packed):
    done = subprocess.run(["tar", "-tf", packed], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 86 and not done.stderr
    with tarfile.open(packed) as file:
        assert file.getnames()[:2] == ["000.cls", "000.txt"]


def test_scenes_are_sealed(tmp_path):
    make(tmp_path / "scenes", settings=SceneSettings(8, 8), workers=1, progress=False)
    for split in ("train", "val", "test"):
        (index,) = load_or_build([tmp_path / "scenes" / split / "00000.tar"], progress=False)
        assert index.num_ignored == 0
        assert seal.read(OpenShard(index.path))
