"""What a real S3 server refuses."""

import os

import pytest
from data.shard_files import text_shard
from integration.s3_server import put, running

from mmlight.data.shards import remote
from mmlight.data.shards.cache import ShardCache
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError

pytestmark = pytest.mark.integration


def test_credentials_are_read_anew_when_they_are_refused(tmp_path, monkeypatch):
    with running(tmp_path / "s3") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        paths = [text_shard(tmp_path / f"here/{n}.tar", 5, first=10 * n) for n in range(3)]
        near = Corpus(load_or_build(paths, progress=False))
        url = put(paths, cache=tmp_path / "cache")
        keys = {n: os.environ[n] for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        for name in keys:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

        def write(keys):
            lines = [f"{name.lower()} = {value}\n" for name, value in keys.items()]
            (tmp_path / "credentials").write_text("[default]\n" + "".join(lines))

        write(keys)
        remote._stores.clear()
        cache = ShardCache(str(tmp_path / "cache"), max_gb=1e-4, patience_s=5)
        far = Corpus(load_or_build(expand(url, cache=cache), progress=False))
        wrong = {name: "x" * len(value) for name, value in keys.items()}
        write(wrong)
        remote.store_of(url).refresh()  # as if they had expired
        write(keys)  # and were renewed
        for shard in far.shards:
            shard.path.drop()
        assert [far.read_all(n) for n in range(5)] == [near.read_all(n) for n in range(5)]
        write(wrong)
        remote.store_of(url).refresh()
        far.shards[0].path.drop()
        far = Corpus(far.shards)
        with pytest.raises(
            UserError, match=r"0\.tar: the server refuses access \(.*403\)"
        ) as error:
            far.read_all(0)
        assert "\n" not in str(error.value) and "xxxx" not in str(error.value)
    remote._stores.clear()
