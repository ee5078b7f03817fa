"""The in-memory search gives what the real backend gives, in the same order."""

import json
import random
import re

from envs.corpus import Corpus, build_corpus
from envs.images import FileImageStore
from envs.nano.lookup import Lookup
from envs.nano.tasks import QuestStream
from envs.nano.teacher import EXACT, Reply, next_turn
from envs.nano.world import World


async def test_agrees_with_the_corpus_on_the_teachers_queries(tmp_path) -> None:
    world = World(seed=2, num_train=40, num_heldout=20)
    lookup, store = Lookup(world), FileImageStore(tmp_path / "images")
    path = tmp_path / "corpus.sqlite"
    build_corpus(path, pages=world.pages(), images=world.images(), store=store)
    corpus = Corpus(path)
    stream = QuestStream(world, "train", seed=0)
    asked = 0
    for ordinal in range(40):
        prompt, replies = stream.quest(ordinal).prompt, []
        while call := _call(next_turn(prompt, replies, slips=EXACT, rng=random.Random(0))):
            name, query = call
            asked += 1
            if name == "search":
                hits = (await corpus.search(query, k=3)).value
                pages = lookup.search(query)
                assert [hit.url for hit in hits] == [page.url for page in pages]
                assert [hit.snippet for hit in hits] == [page.text for page in pages]
                lines = [f"[{page.url}] {page.title}: {page.text}" for page in pages]
                replies.append(Reply(text="\n".join(lines)))
            else:
                found = (await corpus.image_search(query, k=3)).value
                images = lookup.image_search(query)
                assert [image.title for image in found] == [image.caption for image in images]
                assert [store.get(i.ref) for i in found] == [image.png for image in images]
                lines = [f"IMG_{n:03d}: {image.caption}" for n, image in enumerate(images, 1)]
                colours = tuple(image.flag.field for image in images)
                replies.append(Reply(text="\n".join(lines), field_colours=colours))
    assert asked > 80
    corpus.close()


def _call(text: str) -> tuple[str, str] | None:
    found = re.search(r"<tool_call>(.*)</tool_call>", text)
    if found is None:
        return None
    call = json.loads(found.group(1))
    arguments = call["arguments"]
    return call["name"], arguments["query"] if "query" in arguments else arguments["queries"][0]
