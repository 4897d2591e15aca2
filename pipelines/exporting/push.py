"""`--push`: an exported folder as one commit in a repository of the Hugging Face Hub.

The token is the client's own: HF_TOKEN, or what `hf auth login` left in its folder. It is not read
here, and no message has it.
"""

import re
from pathlib import Path

from pipelines.lineage.hub import asked, client
from pipelines.recipes.errors import Mistake

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)")


def repository_of(address: str) -> str:
    """ORG/NAME of hf://ORG/NAME. Raises Mistake for another text."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise Mistake(f"--push {address}: wanted hf://ORG/NAME")
    return found.group(1)


def prepare(repository: str) -> None:
    """Create the repository, as a private one, if it does not exist. Call it before writing files.

    Raises:
        Mistake: the client is not installed, or its token may not write there.
        Unavailable: the Hub does not answer.
    """
    where = f"--push hf://{repository}"
    api = client(where)
    asked(where, lambda: api.create_repo(repository, private=True, exist_ok=True), to_write=True)


def push(repository: str, folder: Path, message: str) -> str:
    """Commit all files of a folder at once; return hf://ORG/NAME@COMMIT.

    Other files of the repository stay. Where nothing has changed, the commit is the newest one.

    Raises:
        Mistake: the token may not write there.
        Unavailable: the Hub does not answer; the folder is there, and can be pushed again.
    """
    from huggingface_hub import CommitOperationAdd

    where = f"--push hf://{repository}: {folder} is written, but not pushed (again: hf upload"
    where += f" {repository} {folder})"
    files = [
        CommitOperationAdd(path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    api = client(where)
    done = asked(
        where,
        lambda: api.create_commit(repository, files, commit_message=message),
        to_write=True,
    )
    return f"hf://{repository}@{done.oid}"
