"""The corpus finds what the nano tasks need, takes queries as data and repeats itself exactly."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ConfigError, ToolError
from envs.corpus import Corpus, build_corpus, is_corpus
from envs.fts import spaced, unspaced
from envs.images import FileImageStore
from envs.nano.lookup import Lookup
from envs.nano.world import World
from envs.provider import Page
from envs.providers.local import CopiedImages
from tests.builders import png_bytes
from tests.fakes.images import MemoryImageStore


@dataclass(frozen=True)
class Picture:
    url: str
    caption: str
    page_url: str
    png: bytes


PAGES = [
    Page(url="https://a.test/torvi", title="Torvi", text="founded 47, field red."),
    Page(url="https://a.test/festival", title="Melka festival", text="held in Torvi."),
    Page(url="https://a.test/long", title="A long page", text="filler words " * 200 + "Torvi"),
]


async def test_an_image_that_the_corpus_has_lost_is_its_fault(tmp_path: Path) -> None:
    theirs, ours = FileImageStore(tmp_path / "theirs"), MemoryImageStore()
    picture = Picture(url="i", caption="a kea", page_url="p", png=png_bytes())
    build_corpus(tmp_path / "corpus.sqlite", pages=[], images=[picture], store=theirs)
    copied = CopiedImages(Corpus(tmp_path / "corpus.sqlite"), theirs=theirs, ours=ours)
    (found,) = (await copied.image_search("kea", k=1)).value
    assert ours.get(found.ref) == picture.png
    for path in tmp_path.glob("theirs/??/*"):
        path.unlink()
    with pytest.raises(ToolError, match=r"corpus is damaged: image .* cannot be read"):
        await copied.image_search("kea", k=1)


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=0, num_train=24, num_heldout=12)


@pytest.fixture(scope="module")
def store() -> MemoryImageStore:
    return MemoryImageStore()


@pytest.fixture(scope="module")
def nano(
    world: World, store: MemoryImageStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Corpus]:
    path = tmp_path_factory.mktemp("corpus") / "nano.sqlite"
    build_corpus(path, pages=world.pages(), images=world.images(), store=store)
    corpus = Corpus(path)
    yield corpus
    corpus.close()


def small_corpus(folder: Path) -> Corpus:
    path = folder / "corpus.sqlite"
    build_corpus(path, pages=PAGES, images=[], store=MemoryImageStore())
    return Corpus(path)


async def test_titles_outweigh_text_and_long_pages_are_cut(tmp_path: Path) -> None:
    hits = (await small_corpus(tmp_path).search("Torvi", k=3)).value
    assert [hit.url.rsplit("/", 1)[1] for hit in hits] == ["torvi", "festival", "long"]
    assert hits[0].snippet == "founded 47, field red."
    assert hits[2].snippet.startswith("...")
    assert len(hits[2].snippet.split()) < 60


UNSPACED_PAGES = [
    Page(url="zh", title="托尔维港", text="托尔维港口的古老起重机建于1443年,位于河边。"),
    Page(url="ja", title="東京タワー", text="東京都庁は新宿にあります。Tokyo Towerは芝公園。"),
    Page(url="th", title="เชียงใหม่", text="เทศกาลโคมลอยจัดที่เชียงใหม่ทุกปี"),
    Page(url="en", title="Kea", text="A mountain parrot of New Zealand."),
]


@pytest.mark.parametrize(
    ("query", "url"),
    [
        ("起重机", "zh"),
        ("托尔维的起重机是哪一年建的", "zh"),
        ("1443年", "zh"),
        ("新宿", "ja"),
        ("タワー 芝公園", "ja"),
        ("Tokyo Tower", "ja"),
        ("โคมลอย", "th"),
        ("parrot of New Zealand", "en"),
    ],
)
async def test_scripts_without_spaces_are_found_by_their_neighbours(
    tmp_path: Path, query: str, url: str
) -> None:
    path = tmp_path / "corpus.sqlite"
    kea = Picture(url="i", caption="起重机的照片", page_url="zh", png=png_bytes())
    build_corpus(path, pages=UNSPACED_PAGES, images=[kea], store=MemoryImageStore())
    corpus = Corpus(path)
    hits = (await corpus.search(query, k=2)).value
    page = next(page for page in UNSPACED_PAGES if page.url == url)
    assert (hits[0].url, hits[0].title, hits[0].snippet) == (url, page.title, page.text)
    assert (await corpus.page(url)).value == page
    (image,) = (await corpus.image_search("起重机", k=1)).value
    assert image.title == "起重机的照片"


async def test_single_characters_of_a_query_find_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "corpus.sqlite"
    build_corpus(path, pages=UNSPACED_PAGES, images=[], store=MemoryImageStore())
    assert [hit.url for hit in (await Corpus(path).search("京", k=3)).value] == ["ja"]
    assert (await Corpus(path).search("宿新", k=3)).value == (), "the order counts"


async def test_the_sign_that_repeats_a_character_has_neighbours_too(tmp_path: Path) -> None:
    pages = [
        Page(url=url, title=title, text="")
        for url, title in (("sasaki", "佐々木"), ("sato", "佐藤"), ("suzuki", "鈴木"))
    ]
    path = tmp_path / "corpus.sqlite"
    build_corpus(path, pages=pages, images=[], store=MemoryImageStore())
    assert [hit.url for hit in (await Corpus(path).search("佐々木", k=3)).value] == ["sasaki"]


@pytest.mark.parametrize(
    "query", ["\uff2b\uff45\uff41", "\uff11\uff19\uff16\uff10", "\ufb01sh", "\uff76\uff85"]
)
async def test_compatibility_forms_find_the_plain_ones(tmp_path: Path, query: str) -> None:
    path = tmp_path / "corpus.sqlite"
    pages = [Page(url="kea", title="Kea", text="Seen in 1960, eats fish, カナ."), *PAGES]
    build_corpus(path, pages=pages, images=[], store=MemoryImageStore())
    assert [hit.url for hit in (await Corpus(path).search(query, k=1)).value] == ["kea"]


@pytest.mark.parametrize(
    ("query", "url"),
    [("Zorvia", "wide"), ("1960", "wide"), ("find", "wide"), ("ガリ", "kana"), ("カリ", "none")],
)
async def test_plain_words_find_compatibility_forms_which_are_shown_as_they_are(
    tmp_path: Path, query: str, url: str
) -> None:
    wide = "\uff3a\uff4f\uff52\uff56\uff49\uff41 \uff11\uff19\uff16\uff10 \ufb01nd"
    kana = "\uff76\uff9e\uff98"  # two half-width kana, the first with a voice mark
    before = {"wide": "filler words " * 100, "kana": "\uff76\uff9e \uff72 " * 100}
    pages = [
        Page(url="wide", title="\uff34\uff4f\uff50", text=before["wide"] + wide),
        Page(url="kana", title="Kana", text=before["kana"] + kana),
        *PAGES,
    ]
    picture = Picture(url="i", caption=wide, page_url="wide", png=png_bytes())
    path = tmp_path / "corpus.sqlite"
    build_corpus(path, pages=pages, images=[picture], store=MemoryImageStore())
    corpus = Corpus(path)
    found = {hit.url: hit for hit in (await corpus.search(query, k=3)).value}
    assert set(found) == {url} - {"none"}
    for page in pages[:2]:
        assert (await corpus.page(page.url)).value == page
        if page.url in found:
            assert found[page.url].title == page.title
            assert found[page.url].snippet.endswith({"wide": wide, "kana": kana}[page.url])
    images = (await corpus.image_search(query, k=1)).value
    assert [image.title for image in images] == ([wide] if url == "wide" else [])


@pytest.mark.parametrize("query", ["Kea", "Kea\u2122", "9", "5"])
async def test_a_sign_that_is_spelled_as_letters_hides_no_word_beside_it(
    tmp_path: Path, query: str
) -> None:
    path = tmp_path / "corpus.sqlite"
    pages = [Page(url="kea", title="Kea\u2122", text="Flight \u21169, 5\u33cf."), *PAGES]
    build_corpus(path, pages=pages, images=[], store=MemoryImageStore())
    assert [hit.url for hit in (await Corpus(path).search(query, k=1)).value] == ["kea"]


@given(text=st.text())
def test_a_text_comes_back_from_its_index_as_it_was(text: str) -> None:
    plain = unspaced(text)  # a page has no unit separators
    assert unspaced(spaced(plain)) == plain


async def test_a_page_is_read_by_its_url(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path)
    assert (await corpus.page("https://a.test/torvi")).value == PAGES[0]
    assert (await corpus.page("https://a.test/none")).value is None


async def test_every_country_and_thing_of_the_nano_world_is_found(
    world: World, nano: Corpus
) -> None:
    for title in [c.name for c in world.countries] + [t.title for t in world.things]:
        hits = (await nano.search(title, k=3)).value
        assert title in [hit.title for hit in hits], title


async def test_the_true_image_of_every_country_is_among_three(
    world: World, nano: Corpus, store: MemoryImageStore
) -> None:
    true_pngs = {image.png for image in world.images()}
    places = []
    for country in world.countries:
        found = (await nano.image_search(f"flag of {country.name}", k=3)).value
        shown = [store.get(image.ref) for image in found]
        truth = [i.png for i in world.images() if i.flag == country.flag]
        assert set(shown) <= true_pngs
        assert truth[0] in shown, country.name
        places.append(shown.index(truth[0]))
    assert len(set(places)) == 3, "the right image's place must say nothing"


async def test_ranking_agrees_with_the_nano_lookup(world: World, nano: Corpus) -> None:
    lookup = Lookup(world)
    for country, thing in zip(world.countries, world.things, strict=False):
        for query in (country.name, thing.title, f"flag of {country.name}", f"{thing.name} of"):
            pages = [page.url for page in lookup.search(query)]
            assert [hit.url for hit in (await nano.search(query, k=3)).value] == pages, query
            digests = [hashlib.sha256(i.png).hexdigest() for i in lookup.image_search(query)]
            found = (await nano.image_search(query, k=3)).value
            assert [image.ref.sha256 for image in found] == digests, query


@pytest.mark.parametrize("query", ["", "  ", '"', "^", "(*", "\x00", "unknown"])
async def test_a_query_without_known_words_finds_nothing(tmp_path: Path, query: str) -> None:
    assert (await small_corpus(tmp_path).search(query, k=3)).value == ()


@pytest.mark.parametrize(
    "query", ['"Melka', "NOT melka", "melka*", "title:Melka", "Melka AND none"]
)
async def test_syntax_in_a_query_is_only_words(tmp_path: Path, query: str) -> None:
    hits = (await small_corpus(tmp_path).search(query, k=3)).value
    assert [hit.title for hit in hits] == ["Melka festival"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=80), k=st.integers(1, 5))
async def test_any_query_gives_at_most_k_results_twice_the_same(
    nano: Corpus, query: str, k: int
) -> None:
    hits = (await nano.search(query, k=k)).value
    images = (await nano.image_search(query, k=k)).value
    assert len(hits) <= k
    assert len(images) <= k
    assert (hits, images) == (
        (await nano.search(query, k=k)).value,
        (await nano.image_search(query, k=k)).value,
    )


def test_the_version_follows_the_content(tmp_path: Path) -> None:
    def version(name: str, pages: list[Page], pictures: list[Picture]) -> str:
        path = tmp_path / name
        build_corpus(path, pages=pages, images=pictures, store=MemoryImageStore())
        return Corpus(path).version

    picture = Picture(url="i1", caption="flag", page_url="p1", png=png_bytes())
    versions = [
        version("a", PAGES, []),
        version("b", PAGES[:2], []),
        version("c", PAGES, [picture]),
    ]
    assert len(set(versions)) == 3
    assert version("d", PAGES, []) == versions[0]


def test_a_failed_build_leaves_the_old_corpus(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path)

    def broken() -> Iterator[Page]:
        yield PAGES[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        build_corpus(
            tmp_path / "corpus.sqlite", pages=broken(), images=[], store=MemoryImageStore()
        )
    assert Corpus(tmp_path / "corpus.sqlite").version == corpus.version
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.sqlite"]


def test_a_file_that_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no corpus"):
        Corpus(tmp_path / "none.sqlite")
    (tmp_path / "text").write_text("hello, this is not a database at all" * 100)
    with pytest.raises(ConfigError, match="not a corpus"):
        Corpus(tmp_path / "text")


def test_a_corpus_of_another_version_is_refused_with_the_mend(tmp_path: Path) -> None:
    small_corpus(tmp_path).close()
    path = tmp_path / "corpus.sqlite"
    assert is_corpus(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(ConfigError, match=r"another version .* \(schema 1, not 3\); build it"):
        Corpus(path)
    assert not is_corpus(path)
