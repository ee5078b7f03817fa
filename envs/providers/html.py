"""Bytes of a page as text, and HTML as markdown.

In: bytes that a stranger sent and what he calls them. Out: text; never fails, whatever they are.
The encoding is that of the byte order mark, else of the header, else of the page itself, else
UTF-8, else Windows-1252, as browsers do it.
"""

import codecs
import html
import re

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_HEAD_BYTES = 2048
"""Where a page says its own encoding."""
_NOT_OF_PAGES = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})
"""Codecs of Python that are no encodings of documents; some are slow on purpose-made input."""
_HTML_TAG = re.compile(r"<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,1000})</title>", re.IGNORECASE)
_TITLE_CHARS = 1 << 16
"""Where a title is looked for."""


def is_text(content_type: str, body: bytes) -> bool:
    """True for text by its bytes and its name; the name alone is not believed."""
    kind = content_type.partition(";")[0].strip().lower()
    named = not kind or kind.startswith("text/") or kind.endswith(("json", "xml"))
    wide = any(body.startswith(bom) for bom, _ in _BOMS[1:])
    return named and (wide or b"\0" not in body[:_HEAD_BYTES])


def is_html(content_type: str, text: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        return True
    return text.lstrip()[:1] == "<" and bool(_HTML_TAG.search(text[:_HEAD_BYTES]))


def decode_text(body: bytes, content_type: str) -> str:
    for bom, encoding in _BOMS:
        if body.startswith(bom):
            return body[len(bom) :].decode(encoding, errors="replace")
    head = body[:_HEAD_BYTES].decode("ascii", errors="ignore")
    for said in (content_type, head):
        found = _CHARSET.search(said)
        encoding = _encoding(found[1]) if found else ""
        if encoding:
            return body.decode(encoding, errors="replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("cp1252", errors="replace")


def page_of_html(page: str) -> tuple[str, str]:
    """Title, and the main content as markdown; all of the text where no main content is found."""
    # Importing it takes a second, and only this reader needs it.
    import trafilatura

    title = _TITLE.search(page[:_TITLE_CHARS])
    text = trafilatura.extract(
        page, output_format="markdown", include_comments=False, favor_recall=True
    )
    return html.unescape(title[1]).strip() if title else "", text or trafilatura.html2txt(page)


def _encoding(label: str) -> str:
    """Python's name of an encoding of text; "" for an unknown one."""
    try:
        name = codecs.lookup(label).name
        if name in _NOT_OF_PAGES:
            return ""
        "".encode(name)
    except LookupError:
        return ""
    return name
