"""The real BinderHub in the double's place, if its package is installed.

It is behind the same ingress with the same gates and faults, and beside doubles of JupyterHub's API, GitHub, the registry and the
builder. Everything else is BinderHub's own, and the chart's launch hook reports its launches to the verifier (D-350, D-351).
"""

import http.client
import json
import os
import subprocess
import tempfile
import threading
import urllib.error
from collections.abc import Iterator
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support import TOP
from tests.support.apps import API_TOKEN
from tests.support.launch_page import OWN, BinderHub, Build, Handler
from tests.support.ports import free_port

PYTHON = os.environ.get("BINDERHUB_PYTHON", "")
"""The interpreter that has the package `binderhub`; empty: `python3`, if that has it."""

REASON = "the Python package binderhub is not installed: BINDERHUB_PYTHON names an interpreter that has it (CONTRIBUTING.md)"
"""The reason to skip tests against the real BinderHub."""


@cache
def is_installed() -> bool:
    """Whether there is a real BinderHub. It must be there if BINDERHUB_PYTHON names an interpreter."""
    find = "import importlib.util, sys; sys.exit(not importlib.util.find_spec('binderhub'))"
    try:
        found = subprocess.run([PYTHON or "python3", "-Ic", find], check=False).returncode == 0
    except OSError:
        found = False
    if PYTHON and not found:
        raise RuntimeError(f"BINDERHUB_PYTHON={PYTHON} has no package binderhub")
    return found


class Process:
    """A process in which real BinderHubs run, one for each `RealBinderHub`: importing the package takes seconds."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [PYTHON or "python3", "-I", Path(__file__).with_name("binderhub_process.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # BinderHub reads a file binderhub_config.py in its working directory.
                cwd=self._folder.name,
            )
        self._lock = threading.Lock()

    def do(self, **command: object) -> None:
        """Send a command, and wait until it is carried out."""
        assert self._process.stdin and self._process.stdout
        with self._lock:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            assert self._process.stdout.readline(), f"BinderHub has ended:\n{self._log.read_text()}"

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


class RealBinderHub(BinderHub):
    """A real BinderHub behind the ingress of the double, whose attributes it has; `templates` is an operator's template_path."""

    def __init__(self, verifier: tuple[str, str] | None, process: Process, base: str = "/", templates: str = "") -> None:
        super().__init__(verifier, base=base)
        self._process = process
        self._sent: object = None
        self._edge = ThreadingHTTPServer(("127.0.0.1", 0), self._edge_handler())
        threading.Thread(target=self._edge.serve_forever, args=(0.05,), daemon=True).start()
        self.inner = free_port()
        process.do(
            do="start",
            port=self.inner,
            base=base,
            edge=f"http://127.0.0.1:{self._edge.server_address[1]}",
            hub=self.url,
            token=API_TOKEN,
            hook=str(TOP / "chart/integration/launch_hook.py"),
            templates=templates,
        )

    def stop(self) -> None:
        super().stop()
        self._process.do(do="stop", port=self.inner)
        self._edge.shutdown()
        self._edge.server_close()

    def _configure(self) -> None:
        more = f"<script>Object.assign(window.pageConfig, {json.dumps(self.page_config)})</script>"
        header = ({"a-page-config": more} if self.page_config else {}) | self.header_html
        banned = [".*"] if self.refusal == 403 else []
        with self._lock:
            if self._sent != (header, banned):
                self._process.do(do="set", port=self.inner, header_html=header, banned=banned)
                self._sent = (header, banned)

    def _ask(self, handler: Any, **more: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        self._configure()
        return handler.ask(f"127.0.0.1:{self.inner}", handler.path, self.client, **more)

    def _own(self, handler: Any, inside: str) -> None:
        connection, response = self._ask(handler)
        handler.pass_on(connection, response, **(self.headers if response.headers.get_content_type() == "text/html" else {}))

    def _stream(self, handler: Any, build: Build) -> tuple[dict[str, str], Iterator[bytes]]:
        connection, response = self._ask(handler, **{"X-Test-Build": json.dumps({"user": build.user, "fails": self.fails})})
        headers = {name: value for name, value in response.getheaders() if name.lower() not in OWN}
        return headers, self._parts(connection, response, build)

    def _parts(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, build: Build) -> Iterator[bytes]:
        launching, rest = 0, b""
        try:
            while part := response.read1(65536):
                *events, rest = (rest + part).split(b"\n\n")
                for event in events:
                    yield event + b"\n\n"
                    launching += b'"phase": "launching"' in event
                    # The second one comes from JupyterHub, after the launch was announced.
                    if (build.cut and launching == 2) or (self.at_once and (b'"phase": "ready"' in event or b'"failed"' in event)):
                        return
        except http.client.HTTPException:
            # BinderHub ended during a build.
            return
        finally:
            connection.close()

    def _edge_handler(hub) -> type[Handler]:  # `self` is the handler's
        class Edge(Handler):
            """The part of JupyterHub's API that BinderHub needs, and the verifier as the launch hook sees it."""

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                self.event(progress=0, message="Server requested")
                hub.ready.pass_through()
                self.event(progress=100, ready=True, message="Server ready")

            def event(self, **event: object) -> None:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

            def do_POST(self) -> None:
                body = self.read_body()
                if self.path == "/api/launches":
                    self.announce(body)
                    return
                if self.path.endswith("/servers/"):
                    hub.launched(self.path.split("/")[-3])
                self.answer(201, b"{}")

            def announce(self, body: bytes) -> None:
                if hub.verifier is None or hub.rests:
                    self.answer(503)
                    return
                try:
                    decided = hub.report(body, self.headers["Authorization"])
                except urllib.error.HTTPError as error:
                    self.answer(error.code)
                    return
                user = json.loads(body)["user"]
                next(build for build in hub.builds if build.user == user).tier = json.loads(decided)["tier"]
                self.answer(200, decided)

        return Edge
