"""`gensearcher corpus ...` as a user types it."""

import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner

from cluster.cli import app
from tests.fakes.library import CountedProvider, open_library


def corpus(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["corpus", *map(str, arguments)])
    return result.exit_code, result.output


def fill(folder: Path) -> None:
    async def fetch() -> None:
        library = open_library(folder)
        provider = CountedProvider(library.images)
        await library.search(provider).search("a", k=1)
        await library.pages(provider).page("u")
        library.close()

    asyncio.run(fetch())


def test_a_corpus_is_built_of_pages(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "kea.md").write_text("# Kea\n\nA parrot.")
    code, said = corpus("build", tmp_path / "pages", "--out", tmp_path / "c[x]")
    assert code == 0
    assert "1 pages and 0 images" in said
    assert f"tools.corpus={tmp_path / 'c[x]'}" in said
    assert (tmp_path / "c[x]" / "corpus.sqlite").is_file()


def test_bad_input_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    code, said = corpus("build", tmp_path / "none")
    assert (code, "there is no folder" in said) == (2, True)
    code, said = corpus("stats", tmp_path / "none")
    assert (code, "there is no store" in said) == (2, True)


def test_a_store_is_looked_at_moved_and_pruned(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    code, said = corpus("stats", tmp_path / "a", "--json")
    assert code == 0
    assert json.loads(said)["entries"]["page/found"]["count"] == 1
    assert corpus("export", tmp_path / "a", tmp_path / "a.tar")[0] == 0
    assert corpus("import", tmp_path / "a.tar", tmp_path / "b")[0] == 0
    code, said = corpus("verify", tmp_path / "b", "--json")
    assert (code, json.loads(said)["ok"]) == (0, True)
    code, said = corpus("prune", tmp_path / "b", "--max-gib", 0)
    assert (code, "2 entries dropped" in said) == (0, True)
    assert json.loads(corpus("stats", tmp_path / "b", "--json")[1])["entries"] == {}


def test_a_refused_archive_leaves_no_store_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no archive" * 100)
    code, said = corpus("import", tmp_path / "bad.tar", tmp_path / "b")
    assert (code, "is no archive of a store" in said) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]


def test_verify_exits_1_with_what_is_wrong(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    for path in (tmp_path / "a" / "texts").glob("??/*"):
        path.unlink()
    code, said = corpus("verify", tmp_path / "a")
    assert code == 1
    assert "page 'u': its text" in said
