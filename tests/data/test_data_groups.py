"""Fields that tell groups of samples apart."""

from collections import Counter

from multimodal import shard, text_only

from mmlight.data.members import Members
from mmlight.data.splits.metadata import carry, count_values
from mmlight.data.splits.split import Split


def test_a_source_becomes_a_field_of_all_splits():
    given = [Members(text="txt"), Members(text="txt", fields={"who": "json:meta.speaker"})]
    assert carry(given, "json:meta.speaker") == "speaker"
    assert [members.fields["speaker"] for members in given] == ["json:meta.speaker"] * 2
    assert carry(given[1:], "who") == "who"
    assert carry([Members(text="txt")], "cls") == "cls"


def test_batches_carry_the_field_and_its_values_are_counted(tmp_path):
    shard(tmp_path / "0.tar", [0, 1, 5])
    shard(tmp_path / "1.tar", [1, 5])
    data = text_only(tmp_path, members=Members(text="txt"), val=Split(str(tmp_path / "0.tar")))
    assert carry(data.all_members(), "json:n") == "n"
    assert count_values(data.samples("train"), "n", seed=0) == Counter({"1": 2, "5": 2, "0": 1})
    batch = next(iter(data.eval_loader("val")))
    assert batch.fields["n"] == [0, 1, 5]
