from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; its tests are skipped without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def slurm(tmp_path_factory) -> Iterator[slurm_cluster.Cluster]:
    """A real cluster of two nodes with 4 CPUs and 2 fake GPUs each; skipped without SLURM."""
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.cluster(folder, options=("--cpus", "4", "--gpus", "2")) as cluster:
        yield cluster
