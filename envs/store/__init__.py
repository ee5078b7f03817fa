"""What the tools have learnt of the world, kept on one disk: searches, pages, summaries, images.

    tool -> sources.StoredSearch -> read_through.ReadThrough -> flights.Flights -> provider
                                        |
                                        +-> store.Store: index.sqlite (WAL) + files by sha256

Folder of a store:

    index.sqlite    entries, what they cite, pins, observations, tallies (schema.py)
    texts/ab/<sha>  texts of pages
    drafts/         files being written; emptied by whoever opens the store alone
    locks           byte ranges of it are locked while a key is being fetched, or the store is open
    images/ab/<sha> images, unless the store was made to share the image folder of a run

One store serves many processes of one node. Nothing in it is pickled.
"""
