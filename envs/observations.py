"""What a policy read after a tool call, as a digest, so that two runs can be compared.

Every `ToolResult` of a call that was understood carries its `call_key`; equal calls have equal
keys, however the policy wrote them and whatever provider answers. A recorded run keeps the digest
of each in its store: `Store.existing(folder).observations()[result.call_key].digest` is what was
recorded, `observation_digest(result)` what was read now. The store of a run is `tools.store` of its
config.yaml, or else runs/<name>/store.
"""

import hashlib
from typing import Any

from core.records import ToolResult
from envs.store.values import canonical_json, sha256_of


def canonical_call(tool: str, arguments: Any) -> str:
    """A call with its defaults filled in, e.g. '["search",{"queries":["a"],"top_k":3}]'."""
    return canonical_json([tool, arguments])


def call_key(call: str) -> str:
    return sha256_of(call)


def observation_digest(result: ToolResult) -> str:
    """Over what the policy is shown: the text, and the images in order with their titles."""
    digest = hashlib.sha256()
    images = [[image.ref.sha256, image.title, image.page_url] for image in result.images]
    digest.update(canonical_json([result.text, images]).encode())
    return digest.hexdigest()
