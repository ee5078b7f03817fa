"""The policy of every checkpoint to the Hugging Face Hub, while the run goes on (off by default).

In: `train.push_to_hub`, a repository like "name/policy", made private when it is not there yet; the
token stands in HF_TOKEN. One upload at a time, on a thread. One that fails is a warning and no
more: the checkpoint lies in the run's folder. What waits for its turn is held by hard links, since
the run drops old checkpoints meanwhile.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import HfApi

from core.config import Config, secret

logger = logging.getLogger(__name__)

TOKEN = "HF_TOKEN"


class HubApi(Protocol):
    """The two calls of `huggingface_hub.HfApi` that an upload takes."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any: ...


class HubUploads:
    def __init__(self, repo: str, api: HubApi, *, folder: Path) -> None:
        """`folder`: a place of its own, on the disk of the checkpoints."""
        self._repo = repo
        self._api = api
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hub")

    def add(self, policy: Path, *, name: str) -> None:
        """Upload a Hugging Face folder as it is now, when those before it are done; returns at
        once."""
        with self._warning(name):
            self._folder.mkdir(parents=True, exist_ok=True)
            held = Path(tempfile.mkdtemp(dir=self._folder))
            shutil.copytree(policy, held, copy_function=_link, dirs_exist_ok=True)
            self._thread.submit(self._upload, held, name)

    def wait(self) -> None:
        """Until all are done."""
        self._thread.shutdown()

    def _upload(self, held: Path, name: str) -> None:
        with self._warning(name):
            self._api.create_repo(self._repo, private=True, exist_ok=True)
            self._api.upload_folder(repo_id=self._repo, folder_path=held, commit_message=name)
            logger.info("%s is uploaded to %s", name, self._repo)
        shutil.rmtree(held, ignore_errors=True)

    @contextmanager
    def _warning(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, the run goes on
            logger.warning("%s was not uploaded to %s: %s", name, self._repo, error)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


@contextmanager
def hub_uploads(config: Config) -> Iterator[HubUploads | None]:
    """None when the recipe asks for none. Waits at the end. Raises ConfigError without a token."""
    repo = config.train.push_to_hub
    if repo is None:
        yield None
        return
    folder = config.run_dir / "uploads"
    shutil.rmtree(folder, ignore_errors=True)  # of a launch that was killed
    uploads = HubUploads(repo, HfApi(token=secret(TOKEN)), folder=folder)
    try:
        yield uploads
    finally:
        uploads.wait()
        shutil.rmtree(folder, ignore_errors=True)
