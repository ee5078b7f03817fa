"""W&B: curves every step, pictures and a table at evaluations; the same run id after a resume.

The run id stands in runs/<name>/wandb_id, so a resumed run goes on in the same W&B run. Offline
runs lie in runs/<name>/wandb/ and are uploaded with `wandb sync`. Nothing but metrics, pictures
and the resolved config is sent: no environment, no source code, no keys.

W&B drops a row whose number is not above that of the last one, but after a lost learner, and when
a run goes on from a checkpoint, steps come again. So rows are numbered by themselves, on over the
starts of a run, and the step is a metric that the curves are drawn over.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from core.config import Config
from core.errors import ConfigError
from core.files import write_atomic

STEP = "train/step"
"""Optimizer steps done; the axis of all curves."""
STALENESS = "staleness/of_"
"""The names that cluster/track/step_metrics.py counts under, less the age."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedPicture:
    """One picture with its words, e.g. references, rendered image and ground truth in a row."""

    image: Image.Image
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedTable:
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | Image.Image | None, ...], ...]


class Tracker:
    """Logs one run; `close()` writes what is still in memory."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError when `wandb.mode` is online and W&B does not let us in."""
        folder = config.run_dir
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = folder / "wandb_rows"
        self._run: Any = _begin(config, folder)
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Scalars of one optimizer step, and the histogram that some of them are."""
        values: dict[str, Any] = dict(metrics)
        if counts := _staleness(metrics):
            edges = [age - 0.5 for age in range(len(counts) + 1)]
            histogram = wandb.Histogram(np_histogram=(counts, edges))
            values["staleness/histogram"] = histogram
        self._log(values, step=step)

    def log_evaluation(
        self,
        metrics: Mapping[str, float],
        *,
        step: int,
        pictures: Sequence[TrackedPicture],
        table: TrackedTable,
    ) -> None:
        """Held-out results of one evaluation under `heldout/`."""
        values: dict[str, Any] = {f"heldout/{name}": value for name, value in metrics.items()}
        values["heldout/pictures"] = [
            wandb.Image(image, caption=picture.caption)
            for image, picture in zip(_padded(pictures), pictures, strict=True)
        ]
        values["heldout/table"] = wandb.Table(
            columns=list(table.columns),
            data=[[_cell(value) for value in row] for row in table.rows],
        )
        self._log(values, step=step)

    def _log(self, values: Mapping[str, Any], *, step: int) -> None:
        row = int(self._rows.read_bytes()) + 1 if self._rows.exists() else step
        write_atomic(self._rows, str(row).encode())
        self._run.log({**values, STEP: step}, step=row)

    def close(self) -> None:
        self._run.finish()


def _begin(config: Config, folder: Path) -> Any:
    try:
        return wandb.init(
            mode=config.wandb.mode,
            project=config.wandb.project,
            name=config.run.name,
            id=_run_id(folder),
            resume="allow",
            dir=str(folder),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
    except wandb.Error as error:
        raise ConfigError(
            f"wandb.mode: {config.wandb.mode!r} does not work here ({error}); export "
            "WANDB_API_KEY, or set wandb.mode=offline"
        ) from error


def _staleness(metrics: Mapping[str, float]) -> list[float]:
    """Trajectories by versions of age, from 0 on; [] when none was consumed."""
    ages = [int(name.removeprefix(STALENESS)) for name in metrics if name.startswith(STALENESS)]
    return [metrics.get(f"{STALENESS}{age}", 0.0) for age in range(max(ages, default=-1) + 1)]


def _cell(value: str | float | Image.Image | None) -> Any:
    return wandb.Image(value) if isinstance(value, Image.Image) else value


def _padded(pictures: Sequence[TrackedPicture]) -> list[Image.Image]:
    """White on the right and below, up to one size: W&B shows a list of pictures that way."""
    width = max((picture.image.width for picture in pictures), default=0)
    height = max((picture.image.height for picture in pictures), default=0)
    padded = []
    for picture in pictures:
        frame = Image.new("RGB", (width, height), "white")
        frame.paste(picture.image, (0, 0))
        padded.append(frame)
    return padded


def _run_id(folder: Path) -> str:
    path = folder / "wandb_id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(4).encode())
    return path.read_text()
