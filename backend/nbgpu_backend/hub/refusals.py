"""The hub's errors as (code, what happened, what to do next)."""

from __future__ import annotations

import errno

from nbgpu_backend.errors import BadRequest, DiskError, NbgpuError, NotFound, Unavailable

TOKEN = "set HF_TOKEN to a token that may read it where the backend is started, then restart it (nbgpu shutdown)"


ERRORS: dict[str, type[NbgpuError]] = {
    "unknown_repo": NotFound,
    "unknown_revision": NotFound,
    "no_weights": BadRequest,
    "hub_gated": BadRequest,
    "hub_unauthorized": BadRequest,
    "hub_offline": Unavailable,
    "hub_unreachable": Unavailable,
    "hub_busy": Unavailable,
    "disk": DiskError,
}


def refusal(error: BaseException, repo: str, revision: str, endpoint: str) -> tuple[str, str, str]:
    """`endpoint` is the hub's address. Looks through the causes of `error`."""
    from huggingface_hub import errors

    for cause in _causes(error):
        match cause:
            case errors.GatedRepoError():
                return (
                    "hub_gated",
                    f"{repo} is gated: its licence must be accepted on {endpoint}/{repo}.",
                    f"Accept it there, then {TOKEN}",
                )
            case errors.RevisionNotFoundError():
                return (
                    "unknown_revision",
                    f"{repo} has no revision {revision!r}.",
                    f"Leave @{revision} out for the main branch, or see {endpoint}/{repo}.",
                )
            case errors.RepositoryNotFoundError():
                return (
                    "unknown_repo",
                    f"There is no model {repo} on {endpoint}, or it is private.",
                    f"Check the spelling; if it is private, {TOKEN}",
                )
            case errors.OfflineModeIsEnabled():
                return (
                    "hub_offline",
                    f"{repo} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it.",
                    "Unset HF_HUB_OFFLINE and restart the backend, or name a local folder.",
                )
            case errors.HfHubHTTPError() if cause.response is not None:
                return _by_status(cause.response.status_code, repo, endpoint)
            case OSError() if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                return (
                    "disk",
                    f"The disk is full: {repo} could not be fetched completely.",
                    "Free some space and try again; what has been fetched is kept.",
                )
            case OSError() if cause.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                return (
                    "disk",
                    f"The model cache cannot be written: {cause.strerror} ({cause.filename}).",
                    "Set HF_HOME to a folder that you can write.",
                )
            case _ if type(cause).__module__.startswith(("httpx", "httpcore")):
                return (
                    "hub_unreachable",
                    f"{endpoint} cannot be reached ({_last_line(cause)}).",
                    "Check the network (or HF_ENDPOINT) and try again; what has been fetched is kept.",
                )
    return (
        "hub_failed",
        f"Fetching {repo} failed: {_last_line(error)}",
        "Try again; what has been fetched is kept.",
    )


def _by_status(status: int, repo: str, endpoint: str) -> tuple[str, str, str]:
    if status in (401, 403):
        return (
            "hub_unauthorized",
            f"{endpoint} refuses access to {repo} ({status}): the token is missing, wrong or "
            "not allowed to read it.",
            f"To go on, {TOKEN}",
        )
    if status == 429:
        return ("hub_busy", f"{endpoint} asks to slow down (429).", "Wait a minute and try again.")
    return (
        "hub_failed",
        f"{endpoint} answered {status} for {repo}.",
        "Try again; what has been fetched is kept.",
    )


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
