"""envs/contamination.py: what of a benchmark is held back, and what is not."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from core.errors import DataError
from core.records import FoundImage
from envs.contamination import Benchmark, ContaminationGuard
from envs.images import FileImageStore, clean_image, image_ref
from envs.provider import Fetched, Page, SearchHit
from tests.builders import png_bytes
from tests.made_pictures import copies, encode, made_picture

PROMPT = (
    "A watercolour of the old harbour crane of Torvi at dawn, its two treadwheels lit from behind, "
    "with the year 1443 carved over the gate."
)
SHORT = "Draw the national flag of Torvi"
TINY = "Draw a cat"
HAN = "用水彩画出黎明时分托尔维港口的古老木制起重机,两个踏轮从后面被照亮"


class Web:
    """Implements the provider Protocols over what the test gives it."""

    version = "web-1"

    def __init__(
        self,
        *,
        hits: tuple[SearchHit, ...] = (),
        images: tuple[FoundImage, ...] = (),
        text: str = "",
    ) -> None:
        self._hits, self._images, self._text = hits, images, text
        self.pages_asked: list[str] = []

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        return Fetched(value=self._hits, provider="web", upstream_calls=1, cost_usd=0.5)

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        return Fetched(value=self._images, provider="web", upstream_calls=1)

    async def page(self, url: str) -> Fetched[Page | None]:
        self.pages_asked.append(url)
        return Fetched(value=Page(url=url, title="t", text=self._text), provider="web")


@pytest.fixture
def benchmark_file(tmp_path: Path) -> Path:
    rows = []
    for number, prompt in enumerate((PROMPT, SHORT, TINY, HAN)):
        (tmp_path / f"{number}.png").write_bytes(encode(made_picture(number), "PNG"))
        rows.append({"id": number, "prompt": prompt, "gt_image": f"{number}.png"})
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(rows))
    return path


class Guarded:
    def __init__(
        self, path: Path, images: FileImageStore, *, blocked: tuple[str, ...] = ()
    ) -> None:
        self.blocks: Counter[str] = Counter()
        self.guard = ContaminationGuard(
            Benchmark.load(path),
            images=images,
            blocked_hosts=blocked,
            count=lambda reason: self.blocks.update([reason]),
        )


@pytest.fixture
def images(tmp_path: Path) -> FileImageStore:
    return FileImageStore(tmp_path / "images")


@pytest.fixture
def guarded(benchmark_file: Path, images: FileImageStore) -> Guarded:
    return Guarded(benchmark_file, images, blocked=("Blocked.test",))


def hit(snippet: str, url: str = "http://a.test/") -> SearchHit:
    return SearchHit(url=url, title="t", snippet=snippet)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_bytes_of_a_ground_truth_are_known_as_a_download_is_kept(kind: str) -> None:
    """A picture of one colour has no looks to be known by."""
    truth = encode(Image.new("RGB", (64, 48), (200, 10, 10)), kind)
    benchmark = Benchmark()
    benchmark.add_image(truth)
    assert not benchmark.has_pictures
    for data in (truth, clean_image(truth)):
        assert benchmark.has_bytes_of(image_ref(data).sha256)


def found(images: FileImageStore, data: bytes, *, page_url: str = "http://a.test/") -> FoundImage:
    return FoundImage(ref=images.put(data), title="a picture", page_url=page_url)


async def test_a_hit_that_quotes_a_prompt_is_held_back(guarded: Guarded) -> None:
    words = PROMPT.split()
    hits = (
        hit("About the town of Torvi."),
        hit(f"Prompt: {PROMPT.upper()}"),
        hit("... " + ", ".join(words[4:16]) + " ..."),  # twelve words in a row
        hit(" ".join(words[4:15])),  # eleven
        hit("please DRAW the national flag of Torvi!"),
        hit("draw the flag of Torvi"),
        hit("Draw a cat"),  # too short to be known by
        hit("t", url="https://deep.blocked.test/x"),
    )
    result = await guarded.guard.search(Web(hits=hits)).search("q", k=9)
    assert result.value == (hits[0], hits[3], hits[5], hits[6])
    assert (result.upstream_calls, result.cost_usd) == (1, 0.5)
    assert guarded.blocks == {"prompt": 3, "host": 1}


async def test_a_quotation_is_known_in_a_script_without_spaces_and_through_soft_hyphens(
    guarded: Guarded,
) -> None:
    hits = (
        hit(f"提示词:{HAN[2:27]}。"),  # 24 characters in a row, and a comma
        hit(HAN[5:22]),  # 17
        hit("\u200b".join(PROMPT)),
        hit(PROMPT.replace("treadwheels", "tread\u00adwheels").upper()),
    )
    result = await guarded.guard.search(Web(hits=hits)).search("q", k=9)
    assert result.value == hits[1:2]
    assert guarded.blocks == {"prompt": 3}


async def test_a_page_that_quotes_a_prompt_does_not_exist(guarded: Guarded) -> None:
    for text, exists in ((f"a\n\n{PROMPT}\n\nb", False), ("the harbour crane of Torvi", True)):
        page = await guarded.guard.pages(Web(text=text)).page("http://a.test/")
        assert (page.value is not None) == exists
    assert guarded.blocks == {"prompt": 1}


async def test_a_page_of_a_blocked_host_is_not_asked_for(guarded: Guarded) -> None:
    web = Web(text="x")
    pages = guarded.guard.pages(web)
    assert (await pages.page("http://blocked.test/a")).value is None
    assert (await pages.page("http://notblocked.test/a")).value is not None
    assert web.pages_asked == ["http://notblocked.test/a"]
    assert guarded.blocks == {"host": 1}


@pytest.mark.parametrize(
    "url",
    [
        *("https://blocked.test./x", "https://BLOCKED.test:8443/x", "//blocked.test/x"),
        *("https://blocked\u3002test/x", "https://user@deep.blocked.test"),
    ],
)
async def test_a_blocked_host_is_known_however_it_is_written(guarded: Guarded, url: str) -> None:
    assert guarded.guard.reason_of_url(url) == "host"


async def test_a_stand_in_of_a_blocked_host_is_held_back(guarded: Guarded) -> None:
    class Replay(Web):
        async def page(self, url: str) -> Fetched[Page | None]:
            other = Page(url="http://blocked.test/a", title="t", text="x")
            return Fetched(value=other, provider="replay", stand_in=other.url)

    assert (await guarded.guard.pages(Replay()).page("http://a.test/a")).value is None
    assert guarded.blocks == {"host": 1}


async def test_ground_truth_is_known_by_bytes_and_by_looks(
    guarded: Guarded, images: FileImageStore
) -> None:
    truth = made_picture(1)
    other = found(images, encode(made_picture(99), "PNG"))
    plain = found(images, png_bytes())
    taken = (
        found(images, encode(truth, "PNG")),
        *(found(images, clean_image(data)) for data in copies(truth).values()),
        found(images, png_bytes(), page_url="http://blocked.test/p"),
    )
    search = guarded.guard.image_search(Web(images=(other, *taken, plain)))
    assert (await search.image_search("q", k=20)).value == (other, plain)
    assert guarded.blocks["host"] == 1
    assert guarded.blocks["image"] >= 1
    assert guarded.blocks["image"] + guarded.blocks["lookalike"] == len(taken) - 1
    again = await search.image_search("q", k=20)
    assert again.value == (other, plain)


async def test_without_a_benchmark_nothing_is_looked_at(tmp_path: Path) -> None:
    """An image that is in no store would be an error if it were read."""
    images = FileImageStore(tmp_path / "one")
    image = found(images, png_bytes())
    blocks: list[str] = []
    nothing = ContaminationGuard(
        Benchmark(), images=FileImageStore(tmp_path / "other"), count=blocks.append
    )
    assert (await nothing.image_search(Web(images=(image,))).image_search("q", k=1)).value
    assert (await nothing.search(Web(hits=(hit(PROMPT),))).search("q", k=1)).value
    assert blocks == []


def test_the_key_of_a_cached_result_is_that_of_the_provider(guarded: Guarded) -> None:
    web = Web()
    for wrapped in (guarded.guard.search(web), guarded.guard.image_search(web)):
        assert wrapped.version == "web-1"


def test_an_image_that_cannot_be_read_is_named(benchmark_file: Path) -> None:
    (benchmark_file.parent / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bench\.json row 1: gt_image: .*1\.png cannot be used"):
        Benchmark.load(benchmark_file)
