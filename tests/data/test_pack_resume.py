import pytest

from mmlight.data.packing import write
from mmlight.data.packing.write import pack
from mmlight.data.shards_command import main
from mmlight.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(10):
        (tmp_path / "in" / f"{n}.txt").write_text(f"text {n}")
    return tmp_path / "in"


def run(folder, out, *more):
    return main(["pack", str(folder), str(out), "--samples-per-shard", "3", *more])


@pytest.mark.parametrize("shuffle", [(), ("--shuffle-seed", "1")])
def test_a_stopped_pack_goes_on_behind_its_whole_shards(tmp_path, folder, monkeypatch, shuffle):
    run(folder, tmp_path / "whole", *shuffle)
    real, written = write.write_shard, []

    def stops(path, samples):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, samples)

    monkeypatch.setattr(write, "write_shard", stops)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, "--resume", *shuffle)
    assert [path.name for path in out.iterdir()] == [".packing"]

    def counts(path, samples):
        written.append(path.name)
        real(path, samples)

    monkeypatch.setattr(write, "write_shard", counts)
    assert run(folder, out, "--resume", *shuffle) == 0
    assert written == [f"0000{n}.part" for n in range(4)]
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole").iterdir())
    for path in out.glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


@pytest.mark.parametrize("count", [0, 2])
def test_without_a_whole_shard_nothing_is_left_to_go_on_behind(tmp_path, count):
    def fails():
        for n in range(count):
            yield {"__key__": str(n), "txt": "x"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(fails(), tmp_path / "o", samples_per_shard=3, resume=True)
    assert not (tmp_path / "o").exists()


def test_what_was_begun_with_other_samples_is_refused(tmp_path, folder):
    def fails(count):
        for n in range(count):
            yield {"__key__": str(n), "txt": "x"}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        pack(fails(7), tmp_path / "o", samples_per_shard=3, resume=True)
    for count, each, first in ((7, 4, 0), (7, 3, 1)):
        samples = ({"__key__": str(n + first), "txt": "x"} for n in range(count))
        with pytest.raises(UserError, match="holds other samples"):
            pack(samples, tmp_path / "o", samples_per_shard=each, resume=True)
    samples = ({"__key__": str(n), "txt": "x"} for n in range(8))
    packed = pack(samples, tmp_path / "o", samples_per_shard=3, resume=True)
    assert [shard.num_samples for shard in packed] == [3, 3, 2]
