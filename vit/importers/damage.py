"""Explain in one line why a file could not be read as weights.

A failed download usually leaves something else under the right name: a Git LFS pointer, a web page,
half of the file. The error that a library raises for such a file rarely says so.
"""

from pathlib import Path

_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")


def explain_damage(path: Path, error: Exception) -> str:
    """Say in one line what is wrong with a file whose reader raised `error`."""
    with path.open("rb") as file:
        start = file.read(512)
    size = path.stat().st_size
    if not start:
        return f"{path} is empty - download it again"
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the weights - run: git lfs pull"
    if start.lstrip().lower().startswith(_WEB_PAGE):
        return (
            f"{path} is a web page, not weights - download the file itself (on Hugging Face the"
            " address has /resolve/, not /blob/)"
        )
    reason = " ".join(str(error).split("\n")[0].split())[:120] or type(error).__name__
    return f"{path} is damaged or cut short ({size:,} bytes: {reason}) - download it again"
