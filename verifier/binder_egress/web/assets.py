"""The files that browsers load, built from `frontend/`."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"


class AssetsMissing(Exception):
    """`frontend/` has not been built."""


class Assets:
    """The built files.

    Args:
        folder: the folder that has them, and the `manifest.json` that the build writes.

    Raises:
        AssetsMissing: the folder has no such file.
    """

    def __init__(self, folder: Path = STATIC):
        self._folder = folder
        try:
            self._files: dict[str, str] = json.loads((folder / "manifest.json").read_text())
        except FileNotFoundError:
            raise AssetsMissing(f"{folder} is not there: run ci/frontend, which builds it.") from None

    def file(self, name: str) -> str:
        """The built name of a source file. It changes with the content, so browsers may keep the file for ever."""
        return self._files[name]

    def read(self, file: str) -> bytes:
        """The content of one of the built files, which is read from the disk once.

        Args:
            file: its built name.
        """
        return _content(self._folder / file)

    def integrity(self, name: str) -> str:
        """The value of the attribute `integrity` for a source file, `sha384-…`."""
        return _integrity(self._folder / self.file(name))


# Keyed by built names, so there is an entry for each file, and it cannot be out of date.


@cache
def _content(file: Path) -> bytes:
    return file.read_bytes()


@cache
def _integrity(file: Path) -> str:
    return f"sha384-{base64.b64encode(hashlib.sha384(_content(file)).digest()).decode()}"
