"""What the Hub's real client asks when it pushes: the answers of a small Hub, for one token."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, answer: Any = None) -> None:
        super().__init__(status)
        self.status, self.answer = status, answer or {}


@dataclass
class Writes:
    """Repositories that are made below a folder, and the large files that arrive for them."""

    folder: Path
    token: str
    created: list[dict[str, Any]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    takes_commits: bool = True
    _large: dict[str, bytes] = field(default_factory=dict)

    def post(self, path: str, data: bytes, authorization: str | None, endpoint: str) -> Any:
        """Answer a POST with a JSON value. Raises Refused."""
        if authorization != f"Bearer {self.token}":
            raise Refused(401)
        if path == "/api/validate-yaml":
            return {}
        if path == "/api/repos/create":
            return self._create(json.loads(data), endpoint)
        if path.endswith("/preupload/main"):
            files = json.loads(data)["files"]
            return {"files": [{**_mode(file["path"]), "shouldIgnore": False} for file in files]}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(data)["objects"]
            return {"objects": [_upload(one, endpoint) for one in objects], "transfer": "basic"}
        if path.endswith("/commit/main") and self.takes_commits:
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            self._commit(name, [json.loads(line) for line in data.splitlines()])
            url = f"{endpoint}/{name}/commit/{COMMIT}"
            return {"success": True, "commitOid": COMMIT, "commitUrl": url}
        raise Refused(403)

    def put(self, path: str, data: bytes) -> None:
        """Keep a large file, whose checksum its address has. Raises Refused."""
        oid = path.removeprefix("/lfs/")
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400)
        self._large[oid] = data

    def repositories(self) -> dict[str, Path]:
        """ORG/NAME -> folder."""
        return {f"{path.parent.name}/{path.name}": path for path in self.folder.glob("*/*")}

    def _create(self, asked: dict[str, Any], endpoint: str) -> dict[str, str]:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories():
            raise Refused(409, {"url": f"{endpoint}/{name}"})
        self.created.append(asked)
        (self.folder / name).mkdir(parents=True)
        return {"url": f"{endpoint}/{name}"}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        folder = self.folder / name
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value)
            elif line["key"] == "lfsFile":
                (folder / value["path"]).write_bytes(self._large[value["oid"]])
            else:
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))


def _mode(path: str) -> dict[str, str]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular"}


def _upload(one: dict[str, Any], endpoint: str) -> dict[str, Any]:
    return {**one, "actions": {"upload": {"href": f"{endpoint}/lfs/{one['oid']}"}}}
