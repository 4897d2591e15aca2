"""Checkpoints of the Hugging Face Hub: hf://ORG/NAME[@REVISION], and timm://NAME for timm's.

A revision is resolved to its commit first, so that what was trained from stays known when the
repository moves on. Files go to the client's cache (HF_HOME); HF_TOKEN opens private repositories
and HF_ENDPOINT names another server, as everywhere.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipelines.cli.redaction import scrub
from pipelines.recipes.errors import Mistake
from storage.errors import Unavailable

T = TypeVar("T")
SCHEMES = ("hf://", "timm://")
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = (".safetensors", ".npz")
_PICKLED = ("pytorch_model", ".bin")
_ABSENT = {"revision": "RevisionNotFoundError", "repository": "RepositoryNotFoundError"}


def is_hub(uri: str) -> bool:
    """Whether an address is one of the Hub's."""
    return uri.startswith(SCHEMES)


def fetched(uri: str) -> tuple[str, Path]:
    """Return hf://ORG/NAME@COMMIT for the commit that the address means now, and its folder.

    The folder is in the client's cache; files that are missing are downloaded. A commit that lies
    there needs no server.

    Raises:
        Mistake: no such address or repository, or the client is not installed.
        Unavailable: the server does not answer.
    """
    repository, revision = _parts(uri)
    try:
        commit, names = _info(uri, repository, revision)
    except Unavailable:
        cached = _cached(repository, revision) if revision and _COMMIT.fullmatch(revision) else None
        if cached is None:
            raise
        return f"hf://{repository}@{revision}", cached
    settings = [name for name in names if name.endswith(".json") and "/" not in name]
    weights = [name for name in names if name.endswith(_WEIGHTS) and "/" not in name]
    if not weights:
        start, end = _PICKLED
        weights = [name for name in names if name.startswith(start) and name.endswith(end)]
    if not weights:
        raise Mistake(
            f"init {uri}: the repository has no safetensors, npz or pytorch_model.bin, only"
            f" {', '.join(names[:5]) or 'nothing'}"
        )
    from huggingface_hub import hf_hub_download

    download = partial(hf_hub_download, repository, revision=commit, endpoint=endpoint())
    where = f"init {uri}"
    paths = [asked(where, partial(download, filename=name)) for name in (*settings, *weights)]
    return f"hf://{repository}@{commit}", Path(paths[0]).parent


def _info(uri: str, repository: str, revision: str | None) -> tuple[str, list[str]]:
    """Commit and names of the files."""
    api = client(f"init {uri}")
    info = asked(f"init {uri}", lambda: api.model_info(repository, revision=revision))
    return str(info.sha), sorted(file.rfilename for file in info.siblings or ())


def client(where: str) -> Any:
    """Return the Hub's client, whose token is that of HF_TOKEN or `hf auth login`.

    Raises:
        Mistake: it is not installed; begins with `where`.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise Mistake(
            f"{where}: the Hub's client is not installed - pip install huggingface_hub"
        ) from None
    return HfApi(endpoint=endpoint())


def asked(where: str, ask: Callable[[], T], *, to_write: bool = False) -> T:
    """Ask the Hub; its refusals are mistakes of the address, its silence is an outage.

    Args:
        where: what messages begin with, such as `init hf://ORG/NAME`.
        ask: calls the client.
        to_write: whether a refusal means that the token may not write.

    Raises:
        Mistake, Unavailable: one line.
    """
    from huggingface_hub import errors

    # The error of the HTTP library, which a failed connection raises, is the base of the Hub's.
    http: Any = errors.HfHubHTTPError.__bases__

    try:
        return ask()
    except (OSError, errors.OfflineModeIsEnabled, *http) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if to_write and status in (401, 403):
            raise Mistake(
                f"{where}: you may not write there ({status}) - look at the name, and log"
                " in by `hf auth login` or HF_TOKEN with a token that may write"
            ) from None
        if isinstance(error, errors.GatedRepoError):
            raise Mistake(
                f"{where}: its owner asks to accept terms first - do so on the Hub's page, and set"
                " HF_TOKEN"
            ) from None
        for kind, absent in _ABSENT.items():
            if isinstance(error, getattr(errors, absent)):
                raise Mistake(
                    f"{where}: the Hub knows no such {kind} - look at its name; a private one needs"
                    " HF_TOKEN"
                ) from None
        raise Unavailable(f"{where}: the Hub does not answer ({scrub(error)[:200]})") from None


def _cached(repository: str, commit: str) -> Path | None:
    from huggingface_hub import snapshot_download

    with suppress(OSError):
        folder = Path(snapshot_download(repository, revision=commit, local_files_only=True))
        if any(file.name.endswith((*_WEIGHTS, _PICKLED[1])) for file in folder.iterdir()):
            return folder
    return None


def endpoint() -> str | None:
    """Return the server's URL in HF_ENDPOINT; None for the client's own default."""
    return os.environ.get("HF_ENDPOINT")


def _parts(uri: str) -> tuple[str, str | None]:
    scheme, _, rest = uri.partition("://")
    name = f"timm/{rest}" if scheme == "timm" else rest
    if not _NAME.fullmatch(name):
        raise Mistake(f"init {uri}: wanted hf://ORG/NAME, hf://ORG/NAME@REVISION or timm://NAME")
    repository, _, revision = name.partition("@")
    return repository, revision or None
