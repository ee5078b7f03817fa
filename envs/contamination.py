"""A benchmark's own images and prompts, kept from the policy that is measured by it.

In: providers (envs/provider.py), and what must not come through them: hosts, and the ground-truth
images and prompts of a benchmark. Out: the same providers without it. A hit or page that quotes a
prompt is left out, and so is an image with the bytes or the looks (envs/lookalike.py) of a ground
truth, or with a title that quotes; a page of a blocked host "does not exist" and is not asked for.
Every block is counted by reason: host, prompt, image, lookalike. Put it outside of a store, so that
what was kept before the benchmark was named is held back too. Raises what the providers and the
image store raise, and ConfigError or DataError for a benchmark that cannot be read.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from yarl import URL

from core.errors import DataError
from core.protocols import ImageStore
from core.records import FoundImage, ImageRef
from envs.guard import is_blocked
from envs.images import clean_image
from envs.lookalike import MAX_DISTANCE, distance, fingerprint
from envs.provider import Fetched, ImageSearch, Page, PageReader, SearchHit, TextSearch
from envs.tasks import load_rows
from envs.words import is_character, words_of

logger = logging.getLogger(__name__)

QUOTE_WORDS = 12
"""So many words of a prompt in a row are a quotation; chance does not bring them together."""
SHORTEST_PROMPT = 6
"""A prompt of fewer words than QUOTE_WORDS counts as a whole; one of fewer than this not at all."""
CHARACTERS_PER_WORD = 2
"""In prompts of scripts that write no spaces between words (envs/words.py)."""


class Benchmark:
    """What a benchmark's questions and answers look like."""

    def __init__(self) -> None:
        self._quotes: dict[int, set[tuple[str, ...]]] = {}
        """By length in words."""
        self._digests: set[str] = set()
        self._fingerprints: list[int] = []

    @classmethod
    def load(cls, path: Path) -> "Benchmark":
        """From `KnowGen-Bench.json` or any file of that shape, its images beside it.

        Raises ConfigError when there is no file, DataError for its content.
        """
        benchmark = cls()
        rows = load_rows(path)
        for row in rows:
            benchmark.add_prompt(row.prompt)
            try:
                benchmark.add_image(row.image_path.read_bytes())
            except (OSError, DataError) as error:
                message = f"{row.place}: gt_image: {row.image_path} cannot be used: {error}"
                raise DataError(f"{message}; replace the image or remove the row") from error
        logger.info("guarding %d prompts and images of %s", len(rows), path)
        return benchmark

    def add_prompt(self, prompt: str) -> None:
        words = words_of(prompt)
        scale = CHARACTERS_PER_WORD if 2 * sum(map(is_character, words)) > len(words) else 1
        size = min(QUOTE_WORDS * scale, len(words))
        if size >= SHORTEST_PROMPT * scale:
            self._quotes.setdefault(size, set()).update(_runs(words, size))

    def add_image(self, data: bytes) -> None:
        """Raises DataError."""
        self._digests.add(hashlib.sha256(data).hexdigest())
        known = fingerprint(data)
        if known is not None:
            self._fingerprints.append(known)
        else:  # of a copy from the web only the bytes are left to know it by, as they are kept
            self._digests.add(hashlib.sha256(clean_image(data)).hexdigest())

    def is_quoted(self, *texts: str) -> bool:
        words = words_of("\n".join(texts)) if self._quotes else []
        return any(
            run in quotes for size, quotes in self._quotes.items() for run in _runs(words, size)
        )

    def has_bytes_of(self, sha256: str) -> bool:
        return sha256 in self._digests

    @property
    def has_pictures(self) -> bool:
        """Whether there is anything that an image can look like."""
        return bool(self._fingerprints)

    def has_looks_of(self, data: bytes) -> bool:
        seen = fingerprint(data)
        if seen is None:
            return False
        return any(distance(seen, known) <= MAX_DISTANCE for known in self._fingerprints)


class ContaminationGuard:
    """Wraps the providers of one process."""

    def __init__(
        self,
        benchmark: Benchmark,
        *,
        images: ImageStore,
        blocked_hosts: Iterable[str] = (),
        count: Callable[[str], None],
    ) -> None:
        """`images` has the bytes of what the image searches find; `count(reason)` hears of every
        block."""
        self.benchmark = benchmark
        self._images = images
        self._blocked_hosts = frozenset(host.lower() for host in blocked_hosts)
        self._count = count
        self._lookalikes: dict[str, bool] = {}
        """By digest of an image that was looked at."""

    def search(self, provider: TextSearch) -> TextSearch:
        return _GuardedSearch(provider, self)

    def image_search(self, provider: ImageSearch) -> ImageSearch:
        return _GuardedImageSearch(provider, self)

    def pages(self, provider: PageReader) -> PageReader:
        return _GuardedPages(provider, self)

    def passes(self, reason: str | None) -> bool:
        """Whether a thing goes on that is blocked for `reason`; counts it if not."""
        if reason is not None:
            self._count(reason)
        return reason is None

    def reason_of_url(self, url: str) -> str | None:
        """Of the host as a fetch would read it."""
        try:
            host = (URL(url).raw_host or "").rstrip(".")
        except ValueError:
            return None  # no fetch will accept it either
        return "host" if is_blocked(host, self._blocked_hosts) else None

    def reason_of_hit(self, hit: SearchHit) -> str | None:
        return self.reason_of_url(hit.url) or self._reason_of_text(hit.title, hit.snippet)

    def reason_of_page(self, page: Page) -> str | None:
        """A replay may have put a page of another host in place of the one asked for."""
        return self.reason_of_url(page.url) or self._reason_of_text(page.title, page.text)

    def reason_of_image(self, image: FoundImage) -> str | None:
        """Reads the image; takes long enough to be kept off the event loop."""
        reason = self.reason_of_url(image.page_url) or self._reason_of_text(image.title)
        if reason is None and self.benchmark.has_bytes_of(image.ref.sha256):
            return "image"
        if reason is None and self._is_lookalike(image.ref):
            return "lookalike"
        return reason

    def _reason_of_text(self, *texts: str) -> str | None:
        return "prompt" if self.benchmark.is_quoted(*texts) else None

    def _is_lookalike(self, ref: ImageRef) -> bool:
        if not self.benchmark.has_pictures:
            return False
        if ref.sha256 not in self._lookalikes:
            self._lookalikes[ref.sha256] = self.benchmark.has_looks_of(self._images.get(ref))
        return self._lookalikes[ref.sha256]


class _GuardedSearch:
    def __init__(self, provider: TextSearch, guard: ContaminationGuard) -> None:
        self._provider = provider
        self._guard = guard

    @property
    def version(self) -> str:
        return self._provider.version

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        found = await self._provider.search(query, k=k)
        guard = self._guard
        kept = (hit for hit in found.value if guard.passes(guard.reason_of_hit(hit)))
        return replace(found, value=tuple(kept))


class _GuardedImageSearch:
    def __init__(self, provider: ImageSearch, guard: ContaminationGuard) -> None:
        self._provider = provider
        self._guard = guard

    @property
    def version(self) -> str:
        return self._provider.version

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        found = await self._provider.image_search(query, k=k)
        guard = self._guard
        reasons = await asyncio.to_thread(lambda: [*map(guard.reason_of_image, found.value)])
        kept = (i for i, reason in zip(found.value, reasons, strict=True) if guard.passes(reason))
        return replace(found, value=tuple(kept))


class _GuardedPages:
    def __init__(self, provider: PageReader, guard: ContaminationGuard) -> None:
        self._provider = provider
        self._guard = guard

    @property
    def version(self) -> str:
        return self._provider.version

    async def page(self, url: str) -> Fetched[Page | None]:
        guard = self._guard
        if not guard.passes(guard.reason_of_url(url)):
            return Fetched(value=None, provider="guard")
        found = await self._provider.page(url)
        if found.value is None:
            return found
        reason = await asyncio.to_thread(guard.reason_of_page, found.value)
        return found if guard.passes(reason) else replace(found, value=None)


def _runs(words: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))
