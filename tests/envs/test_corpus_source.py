"""A folder of pages becomes a corpus; what cannot be used is named by file, row, field and mend."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError, DataError
from envs.corpus import Corpus, build_corpus
from envs.corpus_source import CorpusSource
from envs.images import FileImageStore
from tests.builders import png_bytes


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )


def build(folder: Path, out: Path) -> Corpus:
    source = CorpusSource(folder)
    store = FileImageStore(out / "images")
    build_corpus(out / "c.sqlite", pages=source.pages(), images=source.images(), store=store)
    return Corpus(out / "c.sqlite")


async def test_files_become_pages_with_titles(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    (folder / "birds").mkdir(parents=True)
    (folder / "birds" / "kea.md").write_text("# Kea\n\nA mountain parrot.")
    (folder / "moa.txt").write_text("Extinct.")
    (folder / "tui.html").write_text(
        "<html><head><title>Tui</title></head><body><p>Sings.</p></body></html>"
    )
    (folder / "ignored.bin").write_bytes(b"\0")
    corpus = build(folder, tmp_path / "out")
    assert corpus.size.pages == 3
    for url, title, text in [
        ("birds/kea.md", "Kea", "mountain parrot"),
        ("moa.txt", "moa", "Extinct"),
        ("tui.html", "Tui", "Sings"),
    ]:
        page = (await corpus.page(url)).value
        assert page is not None
        assert (page.title, text in page.text) == (title, True)


async def test_rows_become_pages_and_images(tmp_path: Path) -> None:
    (tmp_path / "kea.png").write_bytes(png_bytes((1, 2, 3)))
    write_rows(tmp_path / "pages.jsonl", [{"url": "https://b/kea", "title": "Kea", "text": "x"}])
    image = {"file": "kea.png", "caption": "A kea in snow", "page_url": "https://b/kea"}
    write_rows(tmp_path / "images.jsonl", [image])
    corpus = build(tmp_path, tmp_path / "out")
    [found] = (await corpus.image_search("snow", k=3)).value
    assert (found.title, found.page_url) == ("A kea in snow", "https://b/kea")
    assert FileImageStore(tmp_path / "out" / "images").get(found.ref)


PAGE = {"url": "u", "title": "T", "text": "x"}
BAD_PAGES = [
    (["{"], r"pages\.jsonl row 1: it is not JSON"),
    ([PAGE, {"url": "u2", "title": "T"}], r"row 2: text: Field required; mend or remove"),
    ([PAGE, PAGE], r"row 2: url: 'u' is also the url of .*row 1; give every page its own"),
    ([{**PAGE, "title": 3}], r"row 1: title: "),
    ([["a list"]], r"row 1: row: "),
]


@pytest.mark.parametrize(("rows", "said"), BAD_PAGES)
def test_a_bad_page_row_is_named(tmp_path: Path, rows: list[Any], said: str) -> None:
    write_rows(tmp_path / "pages.jsonl", rows)
    with pytest.raises(DataError, match=said):
        build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "c.sqlite").exists()


BAD_IMAGES = [
    ("none.png", r"row 1: file: .*none\.png cannot be read.*mend the path"),
    ("../secret.png", r"row 1: file: '\.\./secret\.png' is outside the folder"),
    ("/etc/passwd", r"row 1: file: '/etc/passwd' is outside the folder"),
    ("text.png", r"row 1: file: .*replace the image or remove the row"),
]


@pytest.mark.parametrize(("name", "said"), BAD_IMAGES)
def test_a_bad_image_row_is_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "secret.png").write_bytes(png_bytes())
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "text.png").write_text("no image")
    write_rows(folder / "images.jsonl", [{"file": name, "caption": "c"}])
    with pytest.raises(DataError, match=said):
        build(folder, tmp_path / "out")


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        CorpusSource(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no pages"):
        CorpusSource(tmp_path)
