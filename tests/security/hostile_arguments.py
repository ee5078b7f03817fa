"""Tool arguments that a policy could write, as data."""

import json
from typing import Final

REFUSED: Final[tuple[tuple[str, str], ...]] = (
    # Names that no schema has: paths, headers and switches of the published tools among them.
    ("image_search", '{"query": "a", "save_dir": "/root/.ssh"}'),
    ("image_search", '{"query": "a", "sample_id": "../../x"}'),
    ("search", '{"queries": ["a"], "headers": {"Host": "x"}}'),
    ("search", '{"queries": ["a"], "api_key": "k"}'),
    ("search", '{"queries": ["a"], "__class__": "x"}'),
    ("search", '{"queries": ["a"], "self": 1}'),
    ("browse", '{"url": "http://a.test", "query": "a", "timeout_s": 1e9}'),
    ("browse", '{"url": "http://a.test", "query": "a", "max_bytes": 1e12}'),
    # Other types than the schema says.
    ("search", '{"queries": "a"}'),
    ("search", '{"queries": [["a"]]}'),
    ("search", '{"queries": [{"$ne": ""}]}'),
    ("search", '{"queries": [null]}'),
    ("search", '{"queries": []}'),
    ("search", '{"queries": ["a", "b", "c", "d", "e", "f"]}'),
    ("search", '{"queries": ["a"], "top_k": 0}'),
    ("search", '{"queries": ["a"], "top_k": -1}'),
    ("search", '{"queries": ["a"], "top_k": 1000000000}'),
    ("search", '{"queries": ["a"], "top_k": "3"}'),
    ("search", '{"queries": ["a"], "top_k": true}'),
    ("search", '{"queries": ["a"], "top_k": NaN}'),
    ("search", '{"queries": ["a"], "top_k": 1e400}'),
    ("image_search", '{"query": ["a"]}'),
    ("image_search", '{"query": 7}'),
    ("browse", '{"url": {"host": "a"}, "query": "a"}'),
    # Empty, endless or unreadable.
    ("search", '{"queries": [""]}'),
    ("search", '{"queries": ["\\u200b\\u0000 \\n"]}'),
    ("search", json.dumps({"queries": ["x" * 401]})),
    ("browse", json.dumps({"url": "http://a.test/" + "x" * 3000, "query": "a"})),
    ("browse", '{"url": "", "query": "a"}'),
    ("browse", '{"query": "a"}'),
    ("search", ""),
    ("search", "null"),
    ("search", "[]"),
    ("search", '"queries"'),
    ("search", "{'queries': ['a']}"),
    ("search", '{"queries": ["a"'),
    ("search", "[" * 100_000),
    ("search", '{"queries": ["\\ud800"]}'),
)

CARRIED: Final[tuple[str, ...]] = (
    "../../etc/passwd",
    "; rm -rf / #",
    "$(reboot) `reboot`",
    "' OR 1=1; DROP TABLE pages; --",
    'x" OR pages MATCH "y',
    "NEAR(a b) AND title:c*",
    "{{7*7}} ${7*7} %s %n {0.__class__}",
    "a&b=c#d?e=f",
    "<script>alert(1)</script>",
    "site:evil.test @user",
)
"""Queries that mean something to some program; to ours they are words."""
