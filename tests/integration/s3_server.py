"""A real S3 server on this machine, where its tool lies beside the checkout."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmlight.data.shards import remote
from mmlight.data.shards.cache import ShardCache

TESTS = Path(__file__).parents[1]
TOOL = TESTS.parents[1] / "shared" / "tools" / "rgw-local"


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start a server; yield what the environment has to say of it."""
    pytest.importorskip("botocore")
    if not TOOL.exists():
        pytest.skip("no ../shared/tools/rgw-local beside the checkout")
    up = subprocess.run([TOOL, "up", folder, "--mem", "1"], capture_output=True, text=True)
    if "not found" in up.stderr:
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    try:
        said = subprocess.run([TOOL, "env", folder], capture_output=True, text=True, check=True)
        pairs = (line.removeprefix("export ").split("=", 1) for line in said.stdout.splitlines())
        yield {**dict(pairs), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run([TOOL, "down", folder], check=True, capture_output=True)


def put(paths: list[Path], *, cache: Path) -> str:
    """Put files into a new bucket, with the credentials of the environment; return where."""
    import botocore.session

    bucket = f"set-{os.urandom(4).hex()}"
    botocore.session.get_session().create_client("s3").create_bucket(Bucket=bucket)
    for path in paths:
        url = f"s3://{bucket}/set/{path.name}"
        remote.write(url, path.read_bytes(), cache=ShardCache(str(cache)))
    return f"s3://{bucket}/set/"
