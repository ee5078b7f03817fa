"""Cache, coalescing and retries in front of a remote painter that misbehaves on demand."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.render_client import Painted, RenderCache, RenderClient, RenderCounters
from core.errors import ConfigError, RenderError
from core.failure_policy import Budget
from core.records import RenderRequest
from envs.images import FileImageStore
from tests.builders import make_render_request, png_bytes
from tests.fakes.images import MemoryImageStore
from tests.fakes.painter import FakePainter


def make_client(
    painter: FakePainter, path: Path, *, store: MemoryImageStore | None = None, **changes: Any
) -> RenderClient:
    values: dict[str, Any] = {
        "name": "nano",
        "max_references": 3,
        "store": store or MemoryImageStore(),
        "cache": RenderCache(path / "renders.sqlite"),
        "max_in_flight": 4,
        "timeout_s": 5.0,
        "backoff_s": 0.0,
        "budget": Budget(times=3),
    }
    return RenderClient(painter, **(values | changes))


async def test_a_finished_render_is_kept_and_served_again(tmp_path: Path) -> None:
    painter, store = FakePainter(), MemoryImageStore()
    client = make_client(painter, tmp_path, store=store)
    first = await client.render(make_render_request())
    second = await client.render(make_render_request())
    assert (first.cached, second.cached) == (False, True)
    assert first.image == second.image
    assert len(painter.events) == 2  # paint and done, once
    assert client.counters == RenderCounters(hits=1, painted=1)

    reopened = make_client(painter, tmp_path, store=store)
    assert (await reopened.render(make_render_request())).cached


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 2}, {"model": "x"}, {"prompt": "p"}])
async def test_another_request_is_another_render(tmp_path: Path, change: dict[str, Any]) -> None:
    client = make_client(FakePainter(), tmp_path)
    await client.render(make_render_request())
    assert not (await client.render(make_render_request(**change))).cached


async def test_the_order_of_references_counts(tmp_path: Path) -> None:
    store, painter = MemoryImageStore(), FakePainter()
    client = make_client(painter, tmp_path, store=store)
    one, two = store.put(png_bytes((1, 0, 0))), store.put(png_bytes((2, 0, 0)))
    await client.render(make_render_request(references=(one, two)))
    assert painter.events[0][2] == 2
    assert not (await client.render(make_render_request(references=(two, one)))).cached
    assert (await client.render(make_render_request(references=(one, two)))).cached


async def test_equal_requests_in_flight_make_one_render(tmp_path: Path) -> None:
    painter = FakePainter()
    painter.open.clear()
    client = make_client(painter, tmp_path)
    waiting = [asyncio.create_task(client.render(make_render_request())) for _ in range(5)]
    await asyncio.sleep(0)
    painter.open.set()
    rendered = await asyncio.gather(*waiting)
    assert sorted(result.cached for result in rendered) == [False, True, True, True, True]
    assert client.counters == RenderCounters(coalesced=4, painted=1)


async def test_a_render_goes_on_when_its_first_caller_gives_up(tmp_path: Path) -> None:
    painter = FakePainter()
    painter.open.clear()
    client = make_client(painter, tmp_path)
    impatient = asyncio.create_task(client.render(make_render_request()))
    patient = asyncio.create_task(client.render(make_render_request()))
    await asyncio.sleep(0)
    impatient.cancel()
    painter.open.set()
    assert (await patient).cached
    assert client.counters.painted == 1


async def test_no_more_than_the_allowed_requests_are_in_flight(tmp_path: Path) -> None:
    painter = FakePainter()
    painter.open.clear()
    client = make_client(painter, tmp_path, max_in_flight=2)
    tasks = [
        asyncio.create_task(client.render(make_render_request(seed=seed))) for seed in range(5)
    ]
    await asyncio.sleep(0.01)
    assert [event[0] for event in painter.events] == ["paint", "paint"]
    painter.open.set()
    await asyncio.gather(*tasks)
    assert client.counters.painted == 5


async def test_a_lost_replica_is_retried(tmp_path: Path) -> None:
    painter = FakePainter(lost_times={"p": 2})
    client = make_client(painter, tmp_path)
    rendered = await client.render(make_render_request(prompt="p"))
    assert not rendered.cached
    assert client.counters == RenderCounters(painted=1, retries=2)


async def test_a_silent_replica_is_retried(tmp_path: Path) -> None:
    painter = FakePainter(hang_times={"p": 1})
    client = make_client(painter, tmp_path, timeout_s=0.05)
    await client.render(make_render_request(prompt="p"))
    assert client.counters.retries == 1


async def test_after_the_last_try_the_failure_says_why(tmp_path: Path) -> None:
    painter = FakePainter(lost_times={"p": 4})
    client = make_client(painter, tmp_path)
    with pytest.raises(RenderError, match="after 4 tries; last: the replica died"):
        await client.render(make_render_request(prompt="p"))
    again = await client.render(make_render_request(prompt="p"))
    assert not again.cached  # a failure is never kept


async def test_a_raising_pipeline_is_not_asked_again(tmp_path: Path) -> None:
    painter = FakePainter(raising=frozenset({"p"}))
    client = make_client(painter, tmp_path)
    with pytest.raises(RenderError, match="the pipeline raised"):
        await client.render(make_render_request(prompt="p"))
    assert painter.events == [("paint", "p", 0)]


async def test_too_many_references_never_reach_the_painter(tmp_path: Path) -> None:
    store, painter = MemoryImageStore(), FakePainter()
    client = make_client(painter, tmp_path, store=store, max_references=1)
    references = (store.put(png_bytes((1, 0, 0))), store.put(png_bytes((2, 0, 0))))
    with pytest.raises(RenderError, match="2 reference images") as error:
        await client.render(make_render_request(references=references))
    assert not error.value.retryable
    assert painter.events == []


async def test_a_kept_render_whose_bytes_are_gone_is_drawn_again(tmp_path: Path) -> None:
    painter = FakePainter()
    await make_client(painter, tmp_path).render(make_render_request())
    emptied = make_client(painter, tmp_path, store=MemoryImageStore())
    rendered = await emptied.render(make_render_request())
    assert not rendered.cached
    assert emptied.counters.painted == 1


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / "renders.sqlite"
    path.write_bytes(b"not a database, but long enough to look like one" * 40)
    with pytest.raises(ConfigError, match=r"renders\.sqlite cannot be used"):
        RenderCache(path)


async def test_a_reference_whose_bytes_are_gone_is_a_failure_of_the_render(tmp_path: Path) -> None:
    painter = FakePainter()
    client = make_client(painter, tmp_path)
    reference = MemoryImageStore().put(png_bytes())  # in another store
    with pytest.raises(RenderError, match="a reference image cannot be read") as error:
        await client.render(make_render_request(references=(reference,)))
    failure = error.value.as_failure()
    assert (failure.stage, failure.error_type) == ("render", "MissingReference")
    assert painter.events == [], "nothing is drawn without a reference that was chosen"


async def test_bytes_that_are_no_image_are_a_failure_of_the_render(tmp_path: Path) -> None:
    class Scribbler(FakePainter):
        async def paint(self, request: RenderRequest, *, references: tuple[bytes, ...]) -> Painted:
            return Painted(data=b"scribble")

    client = make_client(Scribbler(), tmp_path, store=FileImageStore(tmp_path / "images"))
    with pytest.raises(RenderError, match="drew no image"):
        await client.render(make_render_request())


async def test_dropped_references_are_renumbered_and_counted(tmp_path: Path) -> None:
    store, painter = MemoryImageStore(), FakePainter()
    client = make_client(painter, tmp_path, store=store, max_references=1, renumber=True)
    references = tuple(store.put(png_bytes((shade, 0, 0))) for shade in range(3))
    prompt = "The hat of the third reference image on the first reference image's head."
    rendered = await client.render(make_render_request(prompt=prompt, references=references))

    kept = "The hat on the first reference image's head."
    assert painter.events[0] == ("paint", kept, 1)
    assert (rendered.request.prompt, rendered.dropped_references) == (kept, 2)
    as_asked = make_render_request(prompt=kept, references=references[:1])
    assert (await client.render(as_asked)).cached, "it is the very same render"
