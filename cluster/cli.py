"""The command line: `gensearcher train | sft | eval | demo | doctor | nano build`."""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Train search-augmented image-generation agents on Ray."""
