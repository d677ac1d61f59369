import io
import tarfile

import pytest
from cli_data import changed, experiment, make_sample, run_in_process, write_data, write_yaml


def spoil(path, changes):
    """Write a shard of eight samples with some members replaced; None leaves one out."""
    with tarfile.open(path, "w") as file:
        for number in range(8):
            for extension, data in make_sample(number).items():
                data = changes.get((number, extension), data)
                if data is not None:
                    info = tarfile.TarInfo(f"{number:04d}.{extension}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))


@pytest.fixture
def places(tmp_path):
    write_data(tmp_path / "data")
    return tmp_path


def check(places, capsys, **changes):
    config = changed(experiment(places / "data", places / "runs"), changes)
    code = run_in_process("shards", "check", "-c", write_yaml(places / "tiny.yaml", config))
    said = capsys.readouterr().out.splitlines()
    return code, [line for line in said if not line.startswith("Indexing")]


def test_what_training_reads_is_checked_as_training_reads_it(places, capsys):
    sound = make_sample(2)["flac"]
    spoil(
        places / "data/val/0.tar",
        {
            (1, "png"): b"none",
            (2, "flac"): sound[: len(sound) // 2],
            (3, "cls"): b"9",
            (4, "txt"): None,
        },
    )
    code, said = check(places, capsys)
    assert code == 1
    assert [line for line in said if line.startswith("bad: data.val")]  # a label beyond the names
    spoil(places / "data/val/0.tar", {(1, "png"): b"none", (2, "flac"): sound[: len(sound) // 2]})
    code, said = check(places, capsys)
    bad = [line.rpartition("/0.tar: ")[2] for line in said if line.startswith("bad: ")]
    assert code == 1
    assert [line.partition(":")[0] for line in bad] == ["0001", "0002"]
    assert ".png: " in bad[0] and ".flac: " in bad[1]
    assert "train 40: 40 images, 40 texts, 40 sounds: all good" in said
    assert said[-3].startswith("val 8: 8 images, 8 texts, 8 sounds, ")
    assert not (places / "runs").exists()


def test_what_the_model_does_not_read_is_no_fault(places, capsys):
    spoil(places / "data/val/0.tar", {(2, "flac"): b"none", (4, "flac"): None})
    code, said = check(places, capsys, **{"model.init_args.towers.audio": None})
    assert code == 0 and "val 8: 8 images, 8 texts: all good" in said
