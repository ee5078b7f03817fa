"""An on-disk corpus of pages and captioned images, searched by words: SQLite FTS5 with BM25.

In: pages and images, once (`build_corpus`, whole or not at all). Out: the searches of
`SearchProvider`, read-only. Queries are data: every word is quoted, so none is FTS syntax. Equal
calls give equal results. Fails with ConfigError when the file is no corpus, with ToolError when it
cannot be read later.
"""

import asyncio
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.errors import ConfigError, ToolError, boundary
from core.protocols import ImageStore
from core.records import FoundImage, ImageRef
from envs.fts import match_any_word_of_spaced, spaced, unspaced
from envs.provider import Fetched, Page, SearchHit
from envs.words import plain_form

NAME = "local"
SCHEMA_VERSION = 3
TITLE_WEIGHT = 10.0
"""BM25 weight of a word in the title; one in the text weighs 1."""
SNIPPET_WORDS = 48
"""Words of a page that a search shows; FTS5 allows 64."""

_READING = "reading the corpus"

# The indexes are of plain forms; what they show is what stands in the tables that they name.
_SCHEMA = f"""
CREATE TABLE texts (id INTEGER PRIMARY KEY, title TEXT, text TEXT, url TEXT);
CREATE VIRTUAL TABLE pages USING fts5(
    title, text, url UNINDEXED, content='texts', content_rowid='id', tokenize='unicode61'
);
CREATE VIRTUAL TABLE captions USING fts5(
    caption, content='images', content_rowid='id', tokenize='unicode61'
);
CREATE TABLE urls (url TEXT PRIMARY KEY, page INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY, caption TEXT NOT NULL, url TEXT NOT NULL, page_url TEXT NOT NULL,
    sha256 TEXT NOT NULL, media_type TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL
);
CREATE TABLE about (version TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""

_SEARCH = f"""
SELECT url, title, snippet(pages, 1, '', '', '...', {SNIPPET_WORDS})
FROM pages WHERE pages MATCH ? ORDER BY bm25(pages, {TITLE_WEIGHT}, 1.0), rowid LIMIT ?
"""

_IMAGE_SEARCH = """
WITH best AS (
    SELECT rowid AS id FROM captions
    WHERE captions MATCH ? ORDER BY bm25(captions), rowid LIMIT ?
)
SELECT url, caption, page_url, sha256, media_type, width, height FROM best JOIN images USING (id)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSize:
    pages: int
    images: int


class PageSource(Protocol):
    """A page to be put into the corpus."""

    @property
    def url(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...


class ImageSource(Protocol):
    """An image to be put into the corpus; `png` may hold any format the image store takes."""

    @property
    def url(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def page_url(self) -> str: ...
    @property
    def png(self) -> bytes: ...


def is_corpus(path: Path) -> bool:
    """Whether it can be opened as one."""
    try:
        Corpus(path).close()
    except ConfigError:
        return False
    return True


def build_corpus(
    path: Path, *, pages: Iterable[PageSource], images: Iterable[ImageSource], store: ImageStore
) -> None:
    """Write the corpus to `path` and the images' bytes to `store`, one at a time.

    The order of pages and images settles ties of ranking. Raises what the sources raise, and
    sqlite3.IntegrityError when two pages share a url; then `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / "corpus.sqlite"
        with closing(sqlite3.connect(draft)) as db:
            db.executescript(_SCHEMA)
            _fill(db, pages=pages, images=images, store=store)
            db.commit()
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)


class Corpus:
    """Implements envs.provider.SearchProvider. Open it with the path of a built corpus."""

    def __init__(self, path: Path) -> None:
        mend = "build it again"
        if not path.is_file():
            raise ConfigError(f"there is no corpus at {path}; {mend}")
        try:
            # The actor that holds a corpus makes it on one thread and asks it on another.
            self._db = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
            (schema,) = self._db.execute("PRAGMA user_version").fetchone()
            if schema != SCHEMA_VERSION:
                raise ConfigError(
                    f"{path} is a corpus of another version of gensearcher (schema {schema}, not "
                    f"{SCHEMA_VERSION}); {mend}"
                )
            (self._version,) = self._db.execute("SELECT version FROM about").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"{path} is not a corpus ({error}); {mend}") from error

    @property
    def version(self) -> str:
        """A digest of everything in the corpus."""
        return f"corpus-{self._version}"

    @property
    def size(self) -> CorpusSize:
        with boundary(ToolError, _READING):
            pages, images = self._db.execute(
                "SELECT (SELECT count(*) FROM urls), (SELECT count(*) FROM images)"
            ).fetchone()
        return CorpusSize(pages=pages, images=images)

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        rows = await asyncio.to_thread(self._match, _SEARCH, query, k)
        hits = tuple(
            SearchHit(url=url, title=title, snippet=unspaced(snippet))
            for url, title, snippet in rows
        )
        return Fetched(value=hits, provider=NAME)

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        """The best `k` captions, in an order that is drawn from the query and says no rank."""
        rows = await asyncio.to_thread(self._match, _IMAGE_SEARCH, query, k)
        rows.sort(key=lambda row: hashlib.sha256(f"{query}|{row[0]}".encode()).hexdigest())
        images = tuple(
            FoundImage(
                title=caption,
                page_url=page_url,
                ref=ImageRef(sha256=sha256, media_type=media_type, width=width, height=height),
            )
            for _, caption, page_url, sha256, media_type, width, height in rows
        )
        return Fetched(value=images, provider=NAME)

    async def page(self, url: str) -> Fetched[Page | None]:
        query = (
            "SELECT url, title, text FROM texts WHERE id = (SELECT page FROM urls WHERE url = ?)"
        )
        with boundary(ToolError, _READING):
            row = self._db.execute(query, (url,)).fetchone()
        page = None
        if row is not None:
            page = Page(url=row[0], title=row[1], text=unspaced(row[2]))
        return Fetched(value=page, provider=NAME)

    def close(self) -> None:
        self._db.close()

    def _match(self, statement: str, query: str, k: int) -> list[tuple[Any, ...]]:
        """Of millions of pages it takes long enough to be kept off the event loop."""
        words = match_any_word_of_spaced(query)
        if words is None:
            return []
        with boundary(ToolError, _READING):
            return self._db.execute(statement, (words, k)).fetchall()


def _fill(
    db: sqlite3.Connection,
    *,
    pages: Iterable[PageSource],
    images: Iterable[ImageSource],
    store: ImageStore,
) -> None:
    digest = hashlib.sha256()
    for number, page in enumerate(pages, 1):
        row = (page.title, spaced(page.text), page.url)
        db.execute("INSERT INTO texts VALUES (?, ?, ?, ?)", (number, *row))
        indexed = (number, _indexed(page.title), _indexed(page.text))
        db.execute("INSERT INTO pages (rowid, title, text) VALUES (?, ?, ?)", indexed)
        db.execute("INSERT INTO urls VALUES (?, ?)", (page.url, number))
        digest.update(repr(row).encode())
    for number, image in enumerate(images, 1):
        ref = store.put(image.png)
        about = (image.url, image.page_url, ref.sha256, ref.media_type, ref.width, ref.height)
        shown = (image.caption, *about)
        db.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (number, *shown))
        caption = _indexed(image.caption)
        db.execute("INSERT INTO captions (rowid, caption) VALUES (?, ?)", (number, caption))
        digest.update(repr(shown).encode())
    db.execute("INSERT INTO about VALUES (?)", (digest.hexdigest()[:16],))


def _indexed(text: str) -> str:
    return spaced(plain_form(text))
