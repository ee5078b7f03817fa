"""What a store keeps: the operations that can be asked, and their values as JSON and back.

An operation is one query, one image query, one page or one summary; equal operations have equal
keys. Its value is canonical JSON; texts of pages go to files of their own, images are named by
digest. Nothing here reads or writes a file.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from core.records import FoundImage, ImageRef, to_jsonable
from envs.provider import Page, SearchHit


class Kind(StrEnum):
    SEARCH = "search"
    IMAGE_SEARCH = "image_search"
    PAGE = "page"
    SUMMARY = "summary"


class State(StrEnum):
    FOUND = "found"
    NOTHING = "nothing"
    """The provider answered that there is nothing."""
    ERROR = "error"
    """The provider failed; kept by a recording only."""


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def canonical_json(value: Any) -> str:
    """Equal for equal values: sorted names, no spaces, ASCII."""
    return _ENCODER.encode(value)


def text_bytes(text: str) -> bytes:
    """UTF-8, and lone surrogates as they are: what the web sends comes back unchanged."""
    return text.encode("utf-8", errors="surrogatepass")


def sha256_of(text: str) -> str:
    return hashlib.sha256(text_bytes(text)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One thing that can be asked. `arguments` are canonical JSON."""

    kind: Kind
    arguments: str
    version: str
    """Of the provider that would be asked."""

    @cached_property
    def key(self) -> str:
        return sha256_of(canonical_json([self.kind, self.arguments, self.version]))

    @property
    def words(self) -> str:
        """What `nearest` compares."""
        read = json.loads(self.arguments)
        return str(read.get("query", read.get("url", "")))

    @property
    def scope(self) -> str:
        """`nearest` stays inside it: a summary of one page never stands in for another page's."""
        return str(json.loads(self.arguments).get("page", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A value ready to be kept."""

    state: State
    value: str
    texts: Mapping[str, str]
    """Texts that go to files, by digest."""
    images: tuple[ImageRef, ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.value) + sum(len(text) for text in self.texts.values())


def encode(kind: Kind, value: Any) -> Encoded:
    """`value` is what the provider of that kind gives (envs/provider.py)."""
    match kind:
        case Kind.SEARCH:
            rows = [to_jsonable(hit) for hit in value]
            return Encoded(state=_state(value), value=canonical_json({"hits": rows}), texts={})
        case Kind.IMAGE_SEARCH:
            rows = [to_jsonable(image) for image in value]
            return Encoded(
                state=_state(value),
                value=canonical_json({"images": rows}),
                texts={},
                images=tuple(image.ref for image in value),
            )
        case Kind.PAGE:
            if value is None:
                return Encoded(state=State.NOTHING, value="{}", texts={})
            digest = sha256_of(value.text)
            about = canonical_json({"url": value.url, "title": value.title, "text": digest})
            return Encoded(state=State.FOUND, value=about, texts={digest: value.text})
        case Kind.SUMMARY:
            return Encoded(state=_state(value), value=canonical_json({"text": value}), texts={})


def decode(kind: Kind, value: str, *, read_text: Callable[[str], str]) -> Any:
    """The value again; `read_text` gives the text of a digest."""
    raw = json.loads(value)
    match kind:
        case Kind.SEARCH:
            return tuple(SearchHit(**hit) for hit in raw["hits"])
        case Kind.IMAGE_SEARCH:
            return tuple(_image(row) for row in raw["images"])
        case Kind.PAGE:
            if not raw:
                return None
            return Page(**(raw | {"text": read_text(raw["text"])}))
        case Kind.SUMMARY:
            return raw["text"]


def nothing(kind: Kind) -> Any:
    """The value that says that there is nothing."""
    match kind:
        case Kind.SEARCH | Kind.IMAGE_SEARCH:
            return ()
        case Kind.PAGE:
            return None
        case Kind.SUMMARY:
            return ""


def _state(value: Any) -> State:
    return State.FOUND if value else State.NOTHING


def _image(row: Mapping[str, Any]) -> FoundImage:
    return FoundImage(ref=ImageRef(**row["ref"]), title=row["title"], page_url=row["page_url"])
