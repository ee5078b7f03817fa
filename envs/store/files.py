"""Files of a store by the sha256 of their content: texts of pages, and images.

A file is written as a draft beside them, fsynced, and moved into place, so it is there whole or not
at all. A file whose content is not what its name says counts as missing.
"""

import hashlib
import os
from pathlib import Path

from core.files import draft_beside


class BlobFolder:
    """<folder>/ab/<sha256>, the layout of envs.images.FileImageStore."""

    def __init__(self, folder: Path, *, drafts: Path) -> None:
        self.folder = folder
        self._drafts = drafts

    def path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError(f"{sha256[:80]!r} is no digest")
        return self.folder / sha256[:2] / sha256

    def read(self, sha256: str) -> bytes | None:
        """The content, or None when there is none that its name vouches for."""
        try:
            data = self.path(sha256).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def draft(self, data: bytes) -> Path:
        """On disk under a name of no meaning; `place` it or remove it."""
        path = draft_beside(self._drafts / "blob")
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path

    def place(self, draft: Path, sha256: str) -> bool:
        """Move a draft to its name, over a damaged file too; False when a good one is there."""
        path = self.path(sha256)
        if self.read(sha256) is not None:
            draft.unlink()
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, path)
        return True

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    def digests(self) -> list[str]:
        """Of every file that bears a digest's name."""
        return sorted(path.name for path in self.folder.glob("??/*") if len(path.name) == 64)


def empty_drafts(folder: Path) -> int:
    """Remove what killed writers left; returns how many files."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [path for path in folder.iterdir() if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)
