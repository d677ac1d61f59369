"""URLs of shards: which are read, how they are shown, and what names one in a cache.

A URL may hold a password or the signature of a presigned request. Those are taken from lists of
shards only, which no run folder copies, and whatever is printed or stored goes without them.
"""

import re
from hashlib import sha256
from urllib.parse import unquote

from mmlight.errors import UserError

SCHEMES = ("http", "https", "s3", "gs", "hf")
WEB = ("http", "https")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|pipe:", re.IGNORECASE)
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/]*@")
# Parts of a query that sign a request and change with each signature (S3, Google, Azure, CDNs).
_SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|sig|s[vsrpet]|srt|spr|sip|sdd|skoid|sktid|sk[tesv]"
    r"|(access_?|auth_?)?token|api_?key|auth|authorization",
    re.IGNORECASE,
)


def is_url(text: str) -> bool:
    """Return whether a pattern is no local path: it has a scheme, or chains several."""
    return _SCHEME.match(text) is not None or "::" in text


def scheme(url: str) -> str:
    """Return the scheme in lower case."""
    return url.partition("://")[0].lower()


def shown(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    if "@" in url:
        url = _USER.sub(r"\1", url)
    if ("?" in url or "#" in url) and scheme(url) in WEB:
        url = re.split(r"[?#]", url)[0]
    return url


def check(url: str, *, in_list: bool) -> None:
    """Refuse what is never read, and secrets where they would be copied into the run's folder.

    Args:
        url: a pattern that `is_url`.
        in_list: it stands in a list of shards, not in the settings.

    Raises:
        UserError: another scheme, a chain of several, or a secret in the settings.
    """
    if "::" in url:
        raise UserError(f"shards '{shown(url)}': chains of URLs (::) are not read; name one URL")
    if scheme(url) not in SCHEMES:
        raise UserError(
            f"shards '{shown(url)}': only local paths and {', '.join(f'{s}://' for s in SCHEMES)} "
            "are read"
        )
    if _USER.match(url) and scheme(url) not in WEB:
        raise UserError(
            f"shards '{shown(url)}': no user or password belongs in such a URL; they come from the "
            "environment and files that the tools of this store use"
        )
    if not in_list and (_USER.match(url) or _has_signature(url)):
        raise UserError(
            f"shards '{shown(url)}': the URL holds a password or a signature, which would be "
            "copied into the run's folder; write it into a .txt list of shards, or a password into "
            "~/.netrc"
        )


def key(url: str) -> str:
    """Return what stays the same of a URL however its request is signed, as 32 hex digits."""
    plain = shown(url)
    if scheme(url) in WEB:
        query = url.partition("#")[0].partition("?")[2]
        parts = [part for part in query.split("&") if part and not _signs(part)]
        plain += "?" + "&".join(parts) if parts else ""
    return sha256(plain.encode()).hexdigest()[:32]


def name(url: str) -> str:
    """Return the last part of a URL's path."""
    return unquote(shown(url).rstrip("/").rpartition("/")[2])


def has_path(url: str) -> bool:
    """Return whether a URL names more than a server."""
    return bool(shown(url).partition("://")[2].partition("/")[2])


def beside(url: str, suffix: str) -> str:
    """Return the URL of the file whose name is that of a shard with a suffix."""
    if scheme(url) not in WEB:
        return url + suffix
    path, mark, query = url.partition("#")[0].partition("?")
    return f"{path}{suffix}{mark}{query}"


def _has_signature(url: str) -> bool:
    if scheme(url) not in WEB:
        return False
    query = url.partition("#")[0].partition("?")[2]
    return any(_signs(part) for part in query.split("&") if part)


def _signs(part: str) -> bool:
    return _SIGNING.fullmatch(part.partition("=")[0]) is not None
