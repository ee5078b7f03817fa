"""A seeded encyclopedia of fictional countries: text pages, captioned images and their links.

In: a seed and sizes. Out: `pages()` and `images()` for a search backend, and the countries and
things from which envs/nano/tasks.py makes prompts. Equal arguments give equal worlds, to the byte.
The year of founding stands only in text; layout, second colour and symbol stand only in images;
the field colour stands in both, so that images with the same caption can be told apart. Every
country is shown by three images, of which two mislead.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from envs.nano.flags import Flag, draw, encode_png, random_flag
from envs.nano.kinds import KINDS, Kind
from envs.nano.names import SPLITS, Split, names

THINGS_PER_COUNTRY = 2
NAMESAKE_SHARE = 0.25
"""Share of things whose name another kind of thing elsewhere bears too."""
TREATY_SHARE = 0.3
"""Share of countries with a page that holds another year."""
SAME_CAPTION_SHARE = 0.5
"""Share of countries with two images of one caption; only the page's field colour decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    url: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoImage:
    url: str
    caption: str
    page_url: str
    flag: Flag

    @property
    def png(self) -> bytes:
        return encode_png(draw(self.flag))


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    name: str
    split: Split
    flag: Flag
    """As its images show it: without a banner."""
    year: str
    """Two digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """Something of a country; `after` is the thing it is named after, if the link is indirect."""

    name: str
    kind: Kind
    country: Country
    after: "Thing | None" = None

    @property
    def title(self) -> str:
        return f"{self.name} {self.kind.word}"

    @property
    def hops(self) -> int:
        return 2 if self.after is None else 3


class World:
    """Example: `World(seed=0).pages()[0].text` is `"founded 47, field red."`."""

    def __init__(self, *, seed: int | str = 0, num_train: int = 192, num_heldout: int = 96) -> None:
        self._rng = random.Random(f"nano world {seed}")
        self.countries: list[Country] = []
        self.things: list[Thing] = []
        self._pages: list[Page] = []
        self._images: list[NanoImage] = []
        for split, num_countries in zip(SPLITS, (num_train, num_heldout), strict=True):
            self._settle(split, num_countries)

    def pages(self) -> tuple[Page, ...]:
        return tuple(self._pages)

    def images(self) -> tuple[NanoImage, ...]:
        return tuple(self._images)

    def _settle(self, split: Split, num_countries: int) -> None:
        """Add one split: its own names, pages and images, with no link to the other split."""
        rng = self._rng
        num_names = num_countries * (2 * THINGS_PER_COUNTRY)
        pool = iter(rng.sample(names(split), num_names))
        countries = [
            Country(name=next(pool), split=split, flag=random_flag(rng), year=_year(rng))
            for _ in range(num_countries)
        ]
        things = [thing for country in countries for thing in self._things_of(country, pool)]
        for thing in [t for t in things if t.after is None]:
            if rng.random() < NAMESAKE_SHARE:
                kind = rng.choice([k for k in KINDS if k is not thing.kind])
                things.append(Thing(name=thing.name, kind=kind, country=rng.choice(countries)))
        self.countries += countries
        self.things += things
        self._write(countries, things)

    def _things_of(self, country: Country, pool: Iterator[str]) -> list[Thing]:
        kinds = self._rng.sample(KINDS, THINGS_PER_COUNTRY + 1)
        direct = [Thing(name=next(pool), kind=kind, country=country) for kind in kinds[:-1]]
        after = self._rng.choice(direct)
        return [*direct, Thing(name=next(pool), kind=kinds[-1], country=country, after=after)]

    def _write(self, countries: list[Country], things: list[Thing]) -> None:
        rng = self._rng
        entries = [(c.name, f"founded {c.year}, field {c.flag.field}.") for c in countries]
        entries += [(thing.title, _fact(thing)) for thing in things]
        entries += [
            (f"{country.name} treaty", f"signed {_year(rng)}.")
            for country in countries
            if rng.random() < TREATY_SHARE
        ]
        rng.shuffle(entries)
        first = len(self._pages)
        self._pages += [
            Page(url=f"p{number:04d}", title=title, text=text)
            for number, (title, text) in enumerate(entries, first)
        ]
        url_of = {page.title: page.url for page in self._pages[first:]}
        pictures = [
            (caption, flag, url_of[country.name])
            for country in countries
            for caption, flag in self._pictures_of(country, countries)
        ]
        rng.shuffle(pictures)
        self._images += [
            NanoImage(url=f"i{number:04d}", caption=caption, page_url=page_url, flag=flag)
            for number, (caption, flag, page_url) in enumerate(pictures, len(self._images))
        ]

    def _pictures_of(
        self, country: Country, countries: list[Country]
    ) -> Iterator[tuple[str, Flag]]:
        """The true image, and two that mislead."""
        rng = self._rng
        caption = f"flag of {country.name}"
        neighbour = rng.choice([c for c in countries if c is not country])
        misleading = [
            (f"old {caption}", _look_alike(country.flag, rng)),
            (f"flag of {neighbour.name} beside {country.name}", _look_alike(neighbour.flag, rng)),
        ]
        if rng.random() < SAME_CAPTION_SHARE:
            misleading[rng.randrange(2)] = (caption, _look_alike(country.flag, rng))
        yield caption, country.flag
        yield from misleading


def _fact(thing: Thing) -> str:
    if thing.after is not None:
        return f"named after {thing.after.title}."
    return f"{thing.kind.relation} {thing.country.name}."


def _look_alike(flag: Flag, rng: random.Random) -> Flag:
    """A flag of another field colour."""
    while True:
        other = random_flag(rng)
        if other.field != flag.field:
            return other


def _year(rng: random.Random) -> str:
    return str(rng.randint(10, 99))
