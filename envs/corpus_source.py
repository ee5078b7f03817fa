"""A folder of somebody's pages and images, read for `envs.corpus.build_corpus`.

Either page files (.md, .txt, .html, also in sub-folders: the path is the url, the first heading,
the HTML title or the file's name the title), or `pages.jsonl` with a row per page. Beside them, if
there are images, `images.jsonl` with a row per image; `file` is relative to the folder:

    {"url": "https://birds.example/kea", "title": "Kea", "text": "A mountain parrot of ..."}
    {"file": "pictures/kea.jpg", "caption": "A kea in the snow", "page_url": "https://birds..."}

A row or a file that cannot be used is a DataError: file, row, field, mend.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ConfigError, DataError
from envs.images import clean_image
from envs.provider import Page
from envs.providers.html import decode_text, page_of_html

PAGES = "pages.jsonl"
IMAGES = "images.jsonl"
SUFFIXES = (".md", ".txt", ".html", ".htm")
MAX_FILE_BYTES = 64 << 20


class _PageRow(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    url: str = Field(pattern=r"\S")
    title: str = Field(pattern=r"\S")
    text: str = Field(pattern=r"\S")


class _ImageRow(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    file: str = Field(pattern=r"\S")
    caption: str = Field(pattern=r"\S")
    page_url: str = ""


Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """Implements envs.corpus.ImageSource."""

    url: str
    caption: str
    page_url: str
    png: bytes


class CorpusSource:
    """Raises ConfigError when the folder holds neither pages nor images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}; name one with pages in it")
        self._files = [] if (folder / PAGES).is_file() else _page_files(folder)
        if not self._files and not (folder / PAGES).is_file() and not (folder / IMAGES).is_file():
            raise ConfigError(
                f"{folder} holds no pages: no {PAGES}, no {IMAGES} and no file that ends with "
                f"{', '.join(SUFFIXES)}"
            )

    def pages(self) -> Iterator[Page]:
        """In the order of the rows, or of the paths; every url once."""
        first: dict[str, str] = {}
        for place, page in self._placed_pages():
            other = first.setdefault(page.url, place)
            if other != place:
                message = f"{place}: url: {page.url!r} is also the url of {other}"
                raise DataError(f"{message}; give every page its own")
            yield page

    def images(self) -> Iterator[SourceImage]:
        """Decoded and freshly encoded, one at a time."""
        path = self._folder / IMAGES
        if not path.is_file():
            return
        for place, row in _rows(path, _ImageRow):
            yield SourceImage(
                url=row.file,
                caption=row.caption,
                page_url=row.page_url,
                png=self._image(place, row.file),
            )

    def _placed_pages(self) -> Iterator[tuple[str, Page]]:
        if (self._folder / PAGES).is_file():
            for place, row in _rows(self._folder / PAGES, _PageRow):
                yield place, Page(url=row.url, title=row.title, text=row.text)
        for path in self._files:
            yield str(path), self._page(path)

    def _page(self, path: Path) -> Page:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: it is over {MAX_FILE_BYTES >> 20} MiB; split the file")
        text, title = decode_text(path.read_bytes(), ""), ""
        if path.suffix.lower() in (".html", ".htm"):
            title, text = page_of_html(text)
        elif path.suffix.lower() == ".md":
            title = _heading(text)
        if not text.strip():
            raise DataError(f"{path}: there is no text in it; remove the file")
        url = path.relative_to(self._folder).as_posix()
        return Page(url=url, title=title or path.stem, text=text)

    def _image(self, place: str, name: str) -> bytes:
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise DataError(f"{place}: file: {name!r} is outside the folder; put the image in it")
        try:
            return clean_image(path.read_bytes())
        except OSError as error:
            message = f"{place}: file: {path} cannot be read ({error.strerror})"
            raise DataError(f"{message}; mend the path or remove the row") from error
        except DataError as error:
            message = f"{place}: file: {path}: {error}"
            raise DataError(f"{message}; replace the image or remove the row") from error


def _page_files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file())


def _rows(path: Path, kind: type[Row]) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"{path} row {number}"
                yield place, _row(place, line, kind)


def _row(place: str, line: bytes, kind: type[Row]) -> Row:
    try:
        raw: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: it is not JSON ({error}); mend or remove the row") from error
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        raise DataError(f"{place}: {field}: {first['msg']}; mend or remove the row") from error


def _heading(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("#"):
            return line.lstrip("#").strip()
    return ""
