"""Serves the metric files of one worker: `python -m streams.runtime.exporter_server FOLDER HOST PORT WORKER_PID`.

Answers /metrics, and /healthz with 200 while the worker's loop has beaten in the last `STALE_S` seconds. Ends with the
worker.
"""

import os
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from streams.runtime.exporter import HEARTBEAT

STALE_S = 15.0


def beating(folder: Path) -> bool:
    try:
        return time.time() - (folder / HEARTBEAT).stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def make_handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                registry = CollectorRegistry()
                MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif self.path == "/healthz":
                alive = beating(folder)
                self._answer(200 if alive else 503, "text/plain", b"ok\n" if alive else b"the loop does not beat\n")
            else:
                self._answer(404, "text/plain", b"there are /metrics and /healthz\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
            return

    return Handler


def main() -> None:
    folder, host, port, worker = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    server = ThreadingHTTPServer((host, port), make_handler(folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.getppid() == worker:  # an orphan has another parent
        time.sleep(0.5)
    server.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
