"""What a cluster's profile may say, and how a wrong one is refused."""

import pytest

from mmlight.errors import UserError
from mmlight.runs.slurm import profile
from mmlight.runs.slurm.profile import Profile


@pytest.fixture
def read(tmp_path):
    def write(text, **options):
        path = tmp_path / "site.yaml"
        path.write_text(text)
        return profile.read(path, **options)

    return write


def test_time_stays_as_it_is_written(read):
    # YAML reads the first as the number 43200, the second as text.
    assert read("time: 12:00:00\n").time == "12:00:00"
    assert read("time: 01:00:00\n").time == "01:00:00"
    assert read("time: 90\n").time == "90"


def test_changes_replace_what_the_file_says(read):
    changed = read("partition: gpu\ntime: 12:00:00\n", changes={"time": "30", "max_nodes": "2"})
    assert (changed.partition, changed.time, changed.max_nodes) == ("gpu", "30", 2)


def test_profile_extends_another(read, tmp_path):
    (tmp_path / "base.yaml").write_text("partition: gpu\ngpus_per_node: 4\ntime: 12:00:00\n")
    extended = read("extends: [base.yaml]\npartition: long\n")
    assert (extended.partition, extended.gpus_per_node, extended.time) == ("long", 4, "12:00:00")


def test_numbers_may_stand_for_text(read):
    assert read("account: 12\nmemory_per_node: 0\n").account == "12"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin: gpu", r"site.yaml: unknown key `partitoin` \(did you mean 'partition'\?\)"),
        ("gpus_per_node: four", "gpus_per_node: must be a whole number, not four"),
        ("gpus_per_node: -1", "gpus_per_node: must be 0 or more, not -1"),
        ("time: soon", "time: 'soon' is no time limit; write it as 1-12:00:00"),
        ("time: 2\nsignal_lead_s: 120", r"signal_lead_s: 120 s is not less than .* 2 \(120 s\)"),
        ("on_preemption: wait", "on_preemption: must be one of requeue, resubmit, not wait"),
        ("container: {image: a.sif}", "container"),
    ],
)
def test_wrong_profile_is_refused_in_a_line(read, text, said):
    with pytest.raises(UserError, match=said):
        read(text + "\n")


def test_defaults_are_a_valid_profile():
    assert Profile().on_preemption == "requeue"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('partition: "x\\ntouch y #"\n', r"^cluster .*site.yaml: partition: .*control character"),
        ("environment: {'A=1; touch y; B': 1}\n", "no name of a variable"),
    ],
)
def test_what_would_add_lines_to_a_job_is_refused_where_it_is_read(read, text, said):
    with pytest.raises(UserError, match=said) as error:
        read(text)
    assert "\n" not in str(error.value)
