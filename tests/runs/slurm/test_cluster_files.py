"""The profiles in slurm/clusters: each can be read, explains itself and makes a sound script."""

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from mmlight.runs.slurm import profile
from mmlight.runs.slurm.profile import Profile
from mmlight.runs.slurm.resources import Resources
from mmlight.runs.slurm.script import TEMPLATE, render

FOLDER = Path(__file__).parents[3] / "slurm"
CLUSTERS = sorted((FOLDER / "clusters").glob("*.yaml"))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.stem)
def test_cluster_file_makes_a_sound_script(path, tmp_path):
    assert {"Purpose", "Command"} <= set(re.findall(r"^# ([A-Z]\w+):", path.read_text(), re.M))
    site = profile.read(path)
    script = tmp_path / "job.sh"
    script.write_text(
        render(
            site,
            root=tmp_path,
            name="a",
            run_id="b",
            folder=tmp_path,
            resources=Resources(1, max(1, site.gpus_per_node), site.gpus_per_node),
        )
    )
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_readme_names_every_key_of_a_profile():
    text = (FOLDER / "README.md").read_text()
    assert [f.name for f in fields(Profile) if f"`{f.name}`" not in text] == []


def test_template_beside_the_readme_is_the_one_in_use():
    assert (FOLDER / "job.sh").resolve() == TEMPLATE.resolve()
