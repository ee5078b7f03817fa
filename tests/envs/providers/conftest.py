"""One fake web for all tests of the providers; every test finds it without faults."""

from collections.abc import AsyncIterator, Iterator

import pytest

from envs.fake_web.app import FakeWeb
from envs.fake_web.server import nano_web, serving_on_a_thread
from envs.nano.world import World
from tests.fakes.images import MemoryImageStore
from tests.fakes.providers import Asked


@pytest.fixture(scope="session")
def world() -> World:
    return World(num_train=12, num_heldout=4)


@pytest.fixture(scope="session")
def _served(
    tmp_path_factory: pytest.TempPathFactory, world: World
) -> Iterator[tuple[FakeWeb, str]]:
    fake = nano_web(tmp_path_factory.mktemp("fake_web"), world=world)
    with serving_on_a_thread(fake) as address:
        yield fake, address


@pytest.fixture
async def asked(_served: tuple[FakeWeb, str], store: MemoryImageStore) -> AsyncIterator[Asked]:
    fake, address = _served
    fake.faults.clear()
    fake.calls.clear()
    asked = Asked(fake, address, store)
    yield asked
    fake.faults.clear()
    await asked.close()


@pytest.fixture
def store() -> MemoryImageStore:
    return MemoryImageStore()
