"""A web of one's own on loopback: every provider's real shapes over any corpus, with faults.

In: a `SearchProvider` and the store of its images; the nano encyclopedia by default. Out: HTTP that
Serper, Brave, Tavily, SerpAPI, SearXNG, Jina's reader and plain web sites would speak. For tests,
and by hand: `gensearcher fake-web`.
"""
