"""`gensearcher corpus build | stats | verify | export | import | prune`.

`build` makes a corpus for the provider `local` of a folder of pages; the others are about the store
that a run keeps what its tools fetched in (runs/<name>/store, or `tools.store`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cluster.console import clear_errors, console, tell
from core.errors import ToolError

corpus_app = typer.Typer(no_args_is_help=True, help="What the tools search, and have fetched.")

StoreFolder = Annotated[Path, typer.Argument(help="E.g. runs/nano/store.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]

HOUR_S = 3600.0
GIB = 1 << 30


@corpus_app.command()
def build(
    path: Annotated[Path, typer.Argument(help="A folder of pages.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The corpus's folder.")] = Path("corpus"),
) -> None:
    """Make a corpus of .md, .txt and .html files, or of pages.jsonl and images.jsonl.

    One row of each: {"url": "...", "title": "Kea", "text": "..."} and
    {"file": "pictures/kea.jpg", "caption": "A kea", "page_url": "..."}.
    """
    from cluster.providers import CORPUS, IMAGES
    from cluster.run_folder import make_folder
    from envs.corpus import Corpus, build_corpus
    from envs.corpus_source import CorpusSource
    from envs.images import FileImageStore

    with clear_errors():
        source = CorpusSource(path)
        make_folder(out, named="--out")
        images = FileImageStore(out / IMAGES)
        build_corpus(out / CORPUS, pages=source.pages(), images=source.images(), store=images)
        corpus = Corpus(out / CORPUS)
        size = corpus.size
        corpus.close()
    tell(f"{size.pages} pages and {size.images} images in {out}")
    tell(
        f"use it: gensearcher train tools.search=local tools.image_search=local "
        f"tools.pages=local tools.corpus={out}"
    )


@corpus_app.command()
def stats(folder: StoreFolder, as_json: AsJson = False) -> None:
    """What is in a store."""
    from envs.store.store import Store
    from envs.store.verify import stats as stats_of

    with _failures(), clear_errors():
        found = stats_of(Store.existing(folder))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        tell(f"{name}: {value}")


@corpus_app.command()
def verify(folder: StoreFolder, as_json: AsJson = False) -> None:
    """Check every row and every file of a store; exit 1 when something is wrong."""
    from envs.store.store import Store
    from envs.store.verify import verify as verify_store

    with _failures(), clear_errors():
        verdict = verify_store(Store.existing(folder))
    if as_json:
        typer.echo(json.dumps({"ok": not verdict.problems, **asdict(verdict)}, indent=2))
    else:
        for problem in verdict.problems:
            console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"{verdict.entries} entries, {verdict.blobs} files, {verdict.observations} "
            f"observations: {len(verdict.problems)} problems"
        )
    raise typer.Exit(1 if verdict.problems else 0)


@corpus_app.command(name="export")
def export_command(
    folder: StoreFolder,
    archive: Annotated[Path, typer.Argument(help="E.g. store.tar.", show_default=False)],
) -> None:
    """Write a store to one portable file."""
    from cluster.run_folder import make_folder
    from envs.store.archive import export_store
    from envs.store.store import Store

    with _failures(), clear_errors():
        store = Store.existing(folder)
        make_folder(archive.parent, named="the archive's path")
        moved = export_store(store, archive)
    tell(
        f"{moved.entries} entries, {moved.blobs} files and {moved.observations} observations "
        f"in {archive}"
    )


@corpus_app.command(name="import")
def import_command(
    archive: Annotated[Path, typer.Argument(help="What `export` wrote.", show_default=False)],
    folder: StoreFolder,
) -> None:
    """Add what is in an archive to a store, or make the store of it; digests are checked."""
    from envs.store.archive import import_store

    with _failures(), clear_errors():
        moved = import_store(archive, folder)
    tell(f"{moved.entries} entries and {moved.blobs} files are in {folder}")


@corpus_app.command()
def prune(
    folder: StoreFolder,
    unused_hours: Annotated[
        float | None, typer.Option(min=0, help="Drop what was not used for so long.")
    ] = None,
    max_gib: Annotated[
        float | None, typer.Option(min=0, help="Drop the least recently used above it.")
    ] = None,
) -> None:
    """Drop kept answers by age or by size; images that a run holds stay."""
    from envs.store.eviction import evict
    from envs.store.eviction import prune as prune_store
    from envs.store.store import Store

    if unused_hours is None and max_gib is None:
        raise typer.BadParameter("give --unused-hours or --max-gib")
    entries = size = 0
    with _failures(), clear_errors():
        store = Store.existing(folder)
        if unused_hours is not None:
            gone = prune_store(store, unused_s=unused_hours * HOUR_S)
            entries, size = entries + gone.entries, size + gone.bytes
        if max_gib is not None:
            gone = evict(store, max_bytes=int(max_gib * GIB))
            entries, size = entries + gone.entries, size + gone.bytes
    console.print(f"{entries} entries dropped, {size / (1 << 20):.1f} MiB freed")


@contextmanager
def _failures() -> Iterator[None]:
    """A disk that fails, or a store that is damaged, ends in one sentence and exit 1."""
    try:
        yield
    except ToolError as error:
        console.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
