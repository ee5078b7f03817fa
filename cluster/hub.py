"""The policy of every checkpoint to the Hugging Face Hub, while the run goes on (off by default).

In: `train.push_to_hub`, a repository like "name/policy", made private when it is not there yet; the
token stands in HF_TOKEN. One upload at a time, on a thread. One that fails is a warning and no
more: the checkpoint lies in the run's folder.
"""

import logging
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
    def __init__(self, repo: str, api: HubApi) -> None:
        self._repo = repo
        self._api = api
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hub")

    def add(self, policy: Path, *, name: str) -> None:
        """Upload a Hugging Face folder when those before it are done; returns at once."""
        self._thread.submit(self._upload, policy, name)

    def wait(self) -> None:
        """Until all are done."""
        self._thread.shutdown()

    def _upload(self, policy: Path, name: str) -> None:
        try:
            self._api.create_repo(self._repo, private=True, exist_ok=True)
            self._api.upload_folder(repo_id=self._repo, folder_path=policy, commit_message=name)
        except Exception as error:  # noqa: BLE001  whatever it is, the run goes on
            logger.warning("%s was not uploaded to %s: %s", name, self._repo, error)
        else:
            logger.info("%s is uploaded to %s", name, self._repo)


@contextmanager
def hub_uploads(config: Config) -> Iterator[HubUploads | None]:
    """None when the recipe asks for none. Waits at the end. Raises ConfigError without a token."""
    repo = config.train.push_to_hub
    if repo is None:
        yield None
        return
    uploads = HubUploads(repo, HfApi(token=secret(TOKEN)))
    try:
        yield uploads
    finally:
        uploads.wait()
