"""Segments written by wandb's SDK itself, whole and cut as a kill leaves them."""

import os
import time

import pytest

from mmlight.runs.wandb.file import count_rows, mend, read_segment

ROWS = 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    import wandb

    folder = tmp_path_factory.mktemp("run")
    run = wandb.init(
        project="p", id="one", dir=folder, mode="offline", settings=wandb.Settings(silent=True)
    )
    for number in range(ROWS):
        # A long text makes some of the records go over the end of a block.
        run.log({"loss": number / 7, "text": "x" * 400})
    run.finish()
    (segment,) = (folder / "wandb").glob("offline-run-*/run-one.wandb")
    deadline = time.monotonic() + 30
    while count_rows(folder / "wandb", run_id="one") < ROWS and time.monotonic() < deadline:
        time.sleep(0.1)
    return segment.read_bytes()


def segment(folder, data, *, name="offline-run-1"):
    path = folder / name / "run-one.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_all_rows_of_all_segments_are_counted(whole, tmp_path):
    assert len(whole) > 2 * 32768
    segment(tmp_path, whole)
    segment(tmp_path, whole, name="run-2")
    assert count_rows(tmp_path, run_id="one") == 2 * ROWS
    assert count_rows(tmp_path, run_id="another") == 0


@pytest.mark.parametrize("cut", [40_000, 65_536, 65_540, 70_001])
def test_a_cut_segment_counts_what_is_whole_and_is_mended(whole, tmp_path, cut):
    path = segment(tmp_path, whole[:cut])
    rows = count_rows(tmp_path, run_id="one")
    assert 0 < rows < ROWS
    mend(tmp_path, run_id="one")
    assert path.stat().st_size == read_segment(path).size <= cut
    assert whole.startswith(path.read_bytes())
    assert count_rows(tmp_path, run_id="one") == rows


def test_a_whole_segment_stays_as_it_is(whole, tmp_path):
    path = segment(tmp_path, whole)
    before = os.stat(path).st_mtime_ns
    mend(tmp_path, run_id="one")
    assert path.read_bytes() == whole and os.stat(path).st_mtime_ns == before


@pytest.mark.parametrize("size", [0, 7, 300])
def test_a_segment_without_rows_is_removed(whole, tmp_path, size):
    empty = segment(tmp_path, whole[:size])
    kept = segment(tmp_path, whole, name="offline-run-2")
    mend(tmp_path, run_id="one")
    assert not empty.parent.exists() and kept.exists()
