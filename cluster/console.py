"""What every command shares: the two consoles, options of all, and how an error ends.

Exit codes: 0 done; 1 something is not as it should be, or a failure with its traceback; 2 the
user's input, said in one sentence; 130 stopped by Ctrl-C.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from core.errors import ConfigError, DataError

console = Console()
errors = Console(stderr=True, soft_wrap=True)

BAD_INPUT = 2
INTERRUPTED = 130

Recipe = Annotated[str, typer.Option("--recipe", "-r", help="A name in configs/, or a path.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value", show_default=False)
]


def tell(text: str) -> None:
    """Lines with paths and commands, which stay whole for whoever copies them."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Bad input ends in one red sentence; anything unexpected keeps its traceback."""
    try:
        yield
    except (ConfigError, DataError) as error:
        errors.print(f"error: {error}", style="bold red", markup=False, highlight=False)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt as interrupt:
        errors.print("stopped", style="yellow")
        raise typer.Exit(INTERRUPTED) from interrupt
