"""Objects of S3 and of what speaks like it.

Endpoint, region, profile and credentials are found as all tools of AWS find them: in
``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ``AWS_ACCESS_KEY_ID``, ... and in ``~/.aws``. Without
credentials, requests are anonymous, as public buckets take them.
"""

from collections.abc import Iterator
from typing import Any

from mmlight.data.shards.http_store import reason
from mmlight.data.shards.store import (
    CONNECT_S,
    READ_S,
    Found,
    MissingError,
    RefusedError,
    Stream,
    TransientError,
    pieces,
)
from mmlight.errors import UserError

_BUSY = {"SlowDown", "Throttling", "RequestTimeout", "InternalError", "ServiceUnavailable"}
_DENIED = {"AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "401", "403"}


class S3Store:
    """A bucket's objects, by botocore's client, which threads share."""

    can_list = True
    can_write = True

    def __init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """See `Store`."""
        try:
            import botocore.session
            from botocore import UNSIGNED
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise UserError("s3:// needs botocore: pip install 'mmlight[s3]'") from None
        session = botocore.session.get_session()
        settings: dict[str, Any] = {
            "retries": {"total_max_attempts": 1},  # we wait ourselves, and longer
            "connect_timeout": CONNECT_S,
            "read_timeout": READ_S,
            "max_pool_connections": 64,
            # What is not AWS may not know them; our own checksums are compared in any case.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        try:
            if session.get_credentials() is None:
                settings["signature_version"] = UNSIGNED
            region = session.get_config_variable("region") or "us-east-1"
            self._client = session.create_client(
                "s3", region_name=region, config=Config(**settings)
            )
        except (BotoCoreError, ValueError) as error:
            raise UserError(f"s3://: the settings of AWS can't be used: {error}") from error

    def find(self, url: str) -> Found:
        """See `Store`."""
        answer = self._call("head_object", url)
        return Found(url, int(answer["ContentLength"]), answer.get("ETag", ""))

    def page(self, prefix: str, token: str) -> tuple[list[Found], str]:
        """See `Store`."""
        bucket, begin = _parts(prefix)
        more = {"ContinuationToken": token} if token else {}
        answer = self._call("list_objects_v2", Bucket=bucket, Prefix=begin, **more)
        found = [
            Found(f"s3://{bucket}/{one['Key']}", int(one["Size"]), one.get("ETag", ""))
            for one in answer.get("Contents", ())
        ]
        return found, answer.get("NextContinuationToken", "")

    def read(self, url: str, start: int, stop: int) -> Stream:
        """See `Store`."""
        answer = self._call("get_object", url, Range=f"bytes={start}-{stop - 1}")
        total = answer.get("ContentRange", "").rpartition("/")[2] or answer["ContentLength"]
        skipped = 0 if answer.get("ContentRange") else start
        found = Found(url, int(total), answer.get("ETag", ""))
        return Stream(found, _chunks(answer["Body"], skipped, stop - start))

    def whole(self, url: str, start: int) -> Stream:
        """See `Store`."""
        return self.read(url, start, self.find(url).num_bytes)

    def write(self, url: str, content: bytes) -> None:
        """See `Store`."""
        self._call("put_object", url, Body=content)

    def _call(self, name: str, url: str | None = None, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

        if url is not None:
            arguments["Bucket"], arguments["Key"] = _parts(url)
        try:
            return getattr(self._client, name)(**arguments)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise _refusal(code, status) from None
        except (ConnectionError, HTTPClientError) as error:
            raise TransientError(reason(error.kwargs.get("error") or error)) from None
        except BotoCoreError as error:
            # Such as credentials that are there by half; none of it holds a secret's text.
            raise RefusedError(f"botocore: {type(error).__name__}: {error}") from None


def _refusal(code: str, status: int) -> Exception:
    said = f"{code}, status {status}" if code and code != str(status) else f"status {status}"
    if status == 404 or code in ("NoSuchKey", "NoSuchBucket"):
        return MissingError(said)
    if status in (408, 429) or status >= 500 or code in _BUSY:
        return TransientError(f"the server answers with {said}")
    if "Expired" in code or "Token" in code:
        return RefusedError(f"the credentials have expired ({said}); renew them and go on")
    if code in _DENIED or status in (401, 403):
        return RefusedError(
            f"the server refuses access ({said}): credentials are wrong, expired, or for less"
        )
    return RefusedError(f"the server answers with {said}")


def _parts(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def _chunks(body: Any, skipped: int, wanted: int) -> Iterator[bytes]:
    import urllib3
    from botocore.exceptions import BotoCoreError

    try:
        yield from pieces(body.read, skipped, wanted)
    except (BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
        raise TransientError(reason(error)) from None
    finally:
        body.close()
