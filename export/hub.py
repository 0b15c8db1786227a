"""To the Hugging Face Hub and back: a bundle is pushed as one commit."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

from genaf_sdk.errors import ExportError, GenafError, HubError, OutputError
from genaf_sdk.export.layout import CHECKSUMS_FILE, is_ours
from genaf_sdk.export.publication import outgoing
from genaf_sdk.export.serve import ServeError, open_bundle
from genaf_sdk.export.space import BUNDLE_FOLDER
from genaf_sdk.models.checksums import check_listed, check_whole, listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.export.integrity import BundleFile
    from genaf_sdk.export.signing import Signer

PREFIX = "hf-hub:"
Result = TypeVar("Result")
HTTPError: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
"""What the client's HTTP library raises, whichever it is: httpx, or httpx2 since huggingface-hub 2."""
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push_bundle(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    pictures: bool = False,
    signer: Signer | None = None,
    space: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    parent_commit: str | None = None,
    message: str = "Upload a hardened classifier",
    token: str | bool | None = None,
    on_files: Callable[[list[BundleFile]], object] | None = None,
) -> str:
    """Publish a bundle in one commit and return the commit's URL.

    Only files that ``checksums.json`` lists are published, and the signature; links, and files that belong neither to
    the bundle nor to the run that wrote it, are refused. Files that the Hub already has are not sent again, so an
    interrupted push is resumed by repeating it. What an older bundle left there and this one lacks goes in the same
    commit: beside it no reader would take the new one. Files that no bundle wrote stay.

    Args:
        folder: What ``harden(..., output_dir=...)`` or ``HardenResult.save`` wrote.
        repo_id: ``ORG/NAME``; made if it does not exist.
        private: Whether a new repository is private. One that exists stays as it is.
        pictures: Whether test images in the report's gallery are published with it.
        signer: Signs what is published, so that others can tell that it is yours; see ``genaf_sdk.export.signing``.
        space: Publish it as a Space, with a page that shows pictures before and after the saved perturbations.
        revision: Branch to commit to.
        create_pr: Open a pull request instead of committing to the branch.
        parent_commit: Refuse to commit if the branch has moved on from this commit.
        message: Commit message.
        token: Hub token; None takes the one that ``hf auth login`` stored.
        on_files: Called with what is about to be published, before anything is sent; it may raise to stop.

    Raises:
        ConfigError: The signer's key cannot be used.
        HubError: The folder is no whole bundle, or the Hub refuses; the error says why. No token is ever in it.
    """
    folder, repo_id = Path(folder), _checked(repo_id)
    api = HfApi(token=token)
    kind, sdk = ("space", "gradio") if space else ("model", None)

    def push(ready: Path, files: list[BundleFile]) -> str:
        api.create_repo(repo_id, private=private, exist_ok=True, repo_type=kind, space_sdk=sdk)
        added = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=ready / file.name) for file in files]
        place = {"revision": revision, "repo_type": kind}
        older = _older_bundle(api, repo_id, f"{BUNDLE_FOLDER}/" if space else "", place)
        commit = api.create_commit(
            repo_id,
            [*added, *map(CommitOperationDelete, sorted(older - {file.name for file in files}))],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=parent_commit,
            repo_type=kind,
        )
        return str(commit.pr_url or commit.commit_url)

    try:
        with outgoing(folder, pictures=pictures, signer=signer, space=space) as (ready, files):
            if on_files is not None:
                on_files(files)
            return _translated(lambda: push(ready, files), repo_id)
    except (ExportError, OutputError) as error:
        raise HubError(error.problem, expected=error.expected, remedy=error.remedy) from error


def fetch_bundle(
    source: str, *, revision: str | None = None, token: str | bool | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Download a published bundle and return its folder, its checksums verified.

    Args:
        source: ``ORG/NAME`` or ``hf-hub:ORG/NAME``.
        revision: Branch, tag or commit.
        token: Hub token, for private repositories.
        cache_dir: Where the Hub's files are kept.

    Raises:
        HubError: There is no such repository, it holds no bundle, one of a newer format or with an unsafe model, a
            file is not the one that was published, or one is not listed in its checksums.
    """
    repository = f"{PREFIX}{source.removeprefix(PREFIX)}"
    folder = download(repository, revision=revision, token=token, cache_dir=cache_dir)
    try:
        check_whole(folder)
        open_bundle(folder)
    except (ExportError, OutputError, ServeError) as error:
        raise HubError(str(error)) from error
    return folder


def download(source: str, **options: Any) -> Path:
    """Download a repository and return its folder; nothing in it is checked.

    Args:
        source: ``hf-hub:ORG/NAME``; or ``ORG/NAME`` where there is no folder of that name, which errors then say.
        **options: As for ``huggingface_hub.snapshot_download``.

    Raises:
        HubError: There is no such repository, or the Hub refuses or cannot be reached.
    """
    try:
        repo_id = _checked(source.removeprefix(PREFIX))
        return _translated(lambda: Path(snapshot_download(repo_id, **options)), repo_id)
    except HubError as error:
        if source.startswith(PREFIX):
            raise
        problem = f"There is no folder {source!r} here. {error.problem}"
        raise HubError(problem, expected=error.expected, remedy=error.remedy) from error


def local_bundle(source: str) -> Path:
    """Return the folder of a bundle: ``hf-hub:ORG/NAME`` is downloaded, anything else is a path.

    Raises:
        HubError: As for ``fetch_bundle``.
        ExportError: The folder is not what its list of checksums says.
    """
    if source.startswith(PREFIX):
        return fetch_bundle(source)
    check_listed(Path(source))
    return Path(source)


def _older_bundle(api: HfApi, repo_id: str, prefix: str, place: dict[str, Any]) -> set[str]:
    """Return which files of a repository a bundle wrote: those that its list names, or that have a name of ours."""
    found = set(api.list_repo_files(repo_id, **place))
    stated: set[str] = set()
    if f"{prefix}{CHECKSUMS_FILE}" in found:
        path = api.hf_hub_download(repo_id, f"{prefix}{CHECKSUMS_FILE}", **place)
        with suppress(GenafError):  # a damaged list: only what has a name of ours is ours
            stated = set(listed(Path(path).parent))
    inside = {name.removeprefix(prefix) for name in found if name.startswith(prefix)}
    return {f"{prefix}{name}" for name in inside if name in stated or is_ours(name)}


def _checked(repo_id: str) -> str:
    expected = "ORG/NAME, or a folder that exists"
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id:
        raise HubError(f"{repo_id!r} is no repository of the Hub.", expected=expected)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:  # names with "--", those that end in "-" or ".git", and long ones
        raise HubError(f"{repo_id!r} is no name that the Hub takes: {error}", expected=expected) from error
    return repo_id


def _translated(action: Callable[[], Result], repo_id: str) -> Result:
    """Run ``action``; turn the client's exceptions into ours, without the request's headers."""
    try:
        return action()
    except (LocalTokenNotFoundError, GatedRepoError) as error:
        raise HubError(f"{repo_id} needs a token.", remedy="run `hf auth login`, or pass token=") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo_id} has no such revision.", expected="a branch, tag or commit of it") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"There is no repository {repo_id}, or the token may not see it.",
            remedy="check the spelling, or pass a token that may read it",
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubError("The Hub is switched off by HF_HUB_OFFLINE.", remedy="unset it") from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{repo_id} is not on this machine, and the Hub cannot be reached or was not to be asked.",
            remedy="check the network, HF_HUB_OFFLINE and local_files_only, and try again",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        reasons = {
            401: ("the token is missing or not valid", "run `hf auth login`, or pass token="),
            403: ("the token may not write there", "use a token with write access"),
            412: ("the branch has moved on since the parent commit", "fetch it, look, and push again"),
        }
        reason, remedy = reasons.get(
            status or 0, (f"it answers {status}", "repeat the push; what arrived is not resent")
        )
        raise HubError(f"The Hub refuses {repo_id}: {reason}.", remedy=remedy) from error
    except RuntimeError as error:  # the client's wrapper around an upload that failed
        raise HubError(
            f"An upload to {repo_id} failed: {error}", remedy="repeat the push; what arrived is not sent again"
        ) from error
    except (OSError, HTTPError) as error:
        raise HubError(
            f"The Hub cannot be reached: {type(error).__name__}.", remedy="check the network, and try again"
        ) from error
