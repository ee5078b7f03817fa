"""As much of a W&B server as `wandb sync` asks, on loopback: W&B's own reader of offline runs then
shows what it found. A table and its pictures come as an artifact.
"""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SYNC_TIMEOUT_S = 300
USER = {"id": "u1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p1", "name": "gensearcher", "entity": {"id": "e1", "name": "me"}}


class WandbServer:
    """What was uploaded."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        """Rows in the order in which they came."""
        self.files: dict[str, bytes] = {}
        self.bodies: list[bytes] = []
        """Of all requests."""
        self.url = ""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        self.bodies.append(body)
        if path.endswith("/file_stream"):
            streams = json.loads(body).get("files", {})
            rows = streams.get("wandb-history.jsonl", {}).get("content", [])
            self.history += [json.loads(row) for row in rows]
        elif path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = body
        elif path == "/graphql":
            asked = json.loads(body)
            return {"data": self._query(asked["query"], asked.get("variables") or {})}
        return {}

    def _upload(self, name: str) -> dict[str, Any]:
        """Where a file of an artifact goes."""
        at = {"uploadUrl": f"{self.url}/upload/artifact/{name}", "uploadHeaders": []}
        return {"id": name, "name": name, "displayName": name, "artifact": {"id": "a1"}, **at}

    def _query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            bucket = {"id": "b1", "name": variables["name"], "project": PROJECT}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [
                {"name": name, "uploadUrl": f"{self.url}/upload/{name}"}
                for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": "b1", "uploadHeaders": [], "files": files}}
        if "createArtifactFiles" in query:
            names = [file["name"] for file in variables["input"]["artifactFiles"]]
            edges = [{"node": self._upload(name)} for name in names]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if "createArtifactManifest" in query or "updateArtifactManifest" in query:
            manifest = {"id": "m1", "file": self._upload("manifest.json")}
            mutation = "create" if "createArtifactManifest" in query else "update"
            return {f"{mutation}ArtifactManifest": {"artifactManifest": manifest}}
        if "commitArtifact" in query:
            return {"commitArtifact": {"artifact": {"id": "a1", "digest": ""}}}
        if "createArtifact" in query:
            artifact = {"id": "a1", "state": "PENDING", "artifactSequence": {"id": "s1"}}
            return {"createArtifact": {"artifact": artifact}}
        return {"model": None, "serverInfo": {"features": []}, "viewer": USER}


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer = json.dumps(server.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def sync(runs: Sequence[Path], *, home: Path) -> WandbServer:
    """Let W&B read offline runs, in this order, and give what it sent."""
    home.mkdir(exist_ok=True)
    with wandb_server() as server:
        env = {
            **os.environ,
            "HOME": str(home),
            "WANDB_DIR": str(home),
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0" * 40,
        }
        for run in runs:
            subprocess.run(
                (Path(sys.executable).with_name("wandb"), "sync", run),
                env=env,
                check=True,
                capture_output=True,
                timeout=SYNC_TIMEOUT_S,
            )
    return server
