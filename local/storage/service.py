"""What the endpoints of Storage share: who calls, the database, the files, and the key for signed URLs."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from local.keys import Keys
from local.storage.callers import Caller, identify, identify_or_nobody
from local.storage.database import Database
from local.storage.files import Files
from local.storage.signing import UrlSigner


@dataclass(slots=True)
class Storage:
    """`files` is there once the part has started: which folder is the database's is in the database."""

    keys: Keys
    database: Database
    signer: UrlSigner
    _files: Files | None = None

    @property
    def files(self) -> Files:
        if self._files is None:
            raise RuntimeError("Storage has not been started")
        return self._files

    @files.setter
    def files(self, files: Files) -> None:
        self._files = files

    def caller(self, request: Request) -> Caller:
        return identify(self.keys, request.headers.get("authorization"))

    def caller_or_nobody(self, request: Request) -> Caller:
        return identify_or_nobody(self.keys, request.headers.get("authorization"))


def bucket_and_key(request: Request) -> tuple[str, str]:
    """The path's. A name that no object can have is for the endpoint to refuse."""
    return request.path_params["bucket"], request.path_params["key"]
