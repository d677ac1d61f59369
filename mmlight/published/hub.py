"""Models on a hub: brought here file by file, and put there. Nothing of them is run."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mmlight.errors import UserError
from mmlight.hub_name import HubName
from mmlight.terminal import note

# Beside the weights: configurations, tokenizers, and the card.
_SMALL = ("*.json", "*.txt", "*.model", "README.md")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What is a model's own, in the order of preference; a repository may hold it several times over.
_WEIGHTS = (
    r"open_clip[\w.-]*\.safetensors",
    r"open_clip[\w.-]*\.(bin|pt)",
    r"model(-\d+-of-\d+)?\.safetensors",
    r"pytorch_model(-\d+-of-\d+)?\.bin",
    r"[\w.-]+\.safetensors",
    r"[\w.-]+\.(bin|pt|pth)",
)
_OPEN_CLIP = "open_clip_config.json"


def fetch_model(name: HubName, *, key: str) -> Path:
    """Return the folder of a model on the hub; what is here already is not fetched again.

    Only configurations, tokenizers and one form of the weights are fetched. A private or gated
    repository needs a token (``HF_TOKEN``). Without a network, what was fetched before is taken.

    Args:
        name: its repository and revision.
        key: the setting that names it, for messages.

    Raises:
        UserError: there is no such repository or revision, it is gated, or it cannot be reached.
    """
    with _one_line(name, key=key):
        small = Path(
            snapshot_download(name.repository, revision=name.revision, allow_patterns=list(_SMALL))
        )
        commit = small.name
        try:
            files = HfApi().list_repo_files(name.repository, revision=commit)
        except Exception as error:
            if not _is_network(error):
                raise
            note(f"{key}: the hub cannot be reached; {name.repository} as it was fetched before")
            return small
        weights = _weights(files)
        if not weights:
            raise UserError(f"{key}: {name.repository} on the hub holds no weights")
        whole = snapshot_download(
            name.repository, revision=commit, allow_patterns=[*_SMALL, *weights]
        )
    return Path(whole)


def push_folder(
    folder: Path,
    name: HubName,
    *,
    private: bool,
    message: str,
    key: str,
) -> str:
    """Put a folder's files into a repository, which is made where it is not there.

    Args:
        folder: the files.
        name: the repository, and the branch that they go to, which is made too.
        private: whether a repository that is made is private.
        message: of the commit.
        key: what the user gave the name as, for messages.

    Returns:
        The address of the commit.

    Raises:
        UserError: there is no right to write there, or the hub cannot be reached.
    """
    api = HfApi()
    with _one_line(name, key=key, writing=True):
        api.create_repo(name.repository, private=private, exist_ok=True)
        if name.revision is not None:
            api.create_branch(name.repository, branch=name.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name.repository,
            folder_path=folder,
            revision=name.revision,
            commit_message=message,
        )
    return str(commit.commit_url)


def _weights(files: Sequence[str]) -> list[str]:
    """Return the weights of the form that is read: of a repository that has several, one."""
    patterns = _WEIGHTS if _OPEN_CLIP in files else _WEIGHTS[2:]
    for pattern in patterns:
        if found := [name for name in files if re.fullmatch(pattern, name)]:
            return found
    return []


@contextmanager
def _one_line(name: HubName, *, key: str, writing: bool = False) -> Iterator[None]:
    repository, place = name.repository, constants.ENDPOINT
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"{key}: {repository} is no name of a repository") from error
    except GatedRepoError as error:
        raise UserError(
            f"{key}: {repository} is gated: ask for access at {place}/{repository}, and set "
            "HF_TOKEN to a token of your account"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{key}: there is no folder {repository} here, and no such repository at {place} that "
            "may be seen (a private one needs HF_TOKEN)"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{key}: {repository} has no revision {name.revision or 'main'} at {place}; a branch, "
            "a tag or a commit is named behind an @"
        ) from error
    except Exception as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            what = "write to" if writing else "read"
            raise UserError(
                f"{key}: {place} does not let you {what} {repository}: set HF_TOKEN to a token "
                f"that may (answer {status})"
            ) from error
        if isinstance(error, LocalEntryNotFoundError) or _is_network(error):
            raise UserError(
                f"{key}: {place} cannot be reached, and {repository} was not fetched before; give "
                "a folder, or try again with a network"
                if not writing
                else f"{key}: {place} cannot be reached: nothing was written to {repository}"
            ) from error
        if status is not None or isinstance(error, OSError | ValueError | RuntimeError):
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{key}: {repository} at {place}: {said}") from error
        raise


def _is_network(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, is of a connection and no answer of the hub."""
    while error is not None:
        if isinstance(error, ConnectionError) or type(error).__name__ in _NO_ANSWER:
            return True
        if isinstance(error, HfHubHTTPError) and error.response.status_code >= 500:
            return True
        error = error.__cause__
    return False


# Of the client that huggingface_hub happens to use (httpx, httpx2), which is no dependency of ours.
_NO_ANSWER = (
    "ConnectError",
    "ConnectTimeout",
    "ReadTimeout",
    "ReadError",
    "RemoteProtocolError",
    "ProxyError",
    "WriteError",
    "WriteTimeout",
    "PoolTimeout",
)
