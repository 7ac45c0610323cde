"""Third-party pages, on another origin than BinderHub, that launch servers with the clients that such pages use.

Each page writes its client's reports into `record`, and counts finished launches in `done`.
"""

import subprocess
import threading
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.support import TOP
from tests.support.launch_page import Handler, bundle

CONTENT_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".html": "text/html; charset=utf-8"}

EVENT_SOURCE = """<script>
  function launch(address) {
    const source = new EventSource(address);
    const is = () => [
      source instanceof EventSource, source.constructor === EventSource, source.readyState === EventSource.CLOSED, source.url,
    ];
    record.push(["made", source.readyState, ...is()]);
    source.onopen = () => record.push(["open", source.readyState, ...is()]);
    source.onerror = (event) => record.push(["error", source.readyState, event.constructor.name]);
    source.addEventListener("message", ({ isTrusted, eventPhase, origin, lastEventId }) => {
      record.push(["heard", isTrusted, eventPhase, origin, lastEventId]);
    });
    source.onmessage = (event) => {
      record.push(["message", event.data]);
      const { phase } = JSON.parse(event.data);
      if (phase !== "ready" && phase !== "failed") return;
      source.close();
      record.push(["closed", source.readyState, ...is()]);
      done += 1;
    };
  }
</script>"""

FETCH = """<script>
  async function launch(address) {
    const answer = fetch(address, { headers: { accept: "text/event-stream" } });
    record.push(["asked", answer.constructor === Promise, fetch.name, fetch.length]);
    try {
      const response = await answer;
      record.push(["answer", response.status, response.type, response.url, response.bodyUsed, [...response.headers].join()]);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
      }
      record.push(["text", text, response.bodyUsed]);
    } catch (error) {
      record.push(["failed", String(error)]);
    }
    done += 1;
  }
</script>"""

CLIENT = """<script src="/client.js"></script>
<script>
  async function launch(address) {
    const base = address.slice(0, address.indexOf("/build/") + 1);
    const image = new BinderRepository(address.slice(base.length + "build/".length), new URL("build/", base));
    for await (const data of image.fetch()) {
      record.push(data);
      if (data.phase === "ready" || data.phase === "failed") break;
    }
    image.close();
    done += 1;
  }
</script>"""

THEBE_CORE = """<script src="/npm/thebe-core/dist/lib/thebe-core.min.js"></script>
<script>
  function launch(address) {
    const [base, owner, name, ref] = address.match(/^(.*)\\/build\\/gh\\/([^/]+)\\/([^/]+)\\/(.+)$/).slice(1);
    const config = thebeCore.api.makeConfiguration({
      binderOptions: { binderUrl: base, repo: `${owner}/${name}`, ref },
      savedSessionOptions: { enabled: false },
    });
    for (const kind of ["status", "error"]) {
      config.events.on(kind, (event, { subject, status, message }) => record.push([kind, subject, status, message]));
    }
    const server = thebeCore.api.makeServer(config);
    const end = (...what) => { record.push(what); done += 1; };
    server.ready.then(() => end("ready", server.userServerUrl), (error) => end("rejected", error));
    server.connectToServerViaBinder();
  }
</script>"""

THEBE = """<script src="/npm/thebe/lib/index.js"></script>
<pre data-executable>1 + 1</pre>
<script>
  function launch(address) {
    const [base, owner, name, ref] = address.match(/^(.*)\\/build\\/gh\\/([^/]+)\\/([^/]+)\\/(.+)$/).slice(1);
    thebe.on("status", (event, { subject, status, message }) => {
      if (subject !== "server") return;
      record.push([subject, status, message]);
      done += status === "server-ready";
    });
    thebe.on("error", (event, { subject, status, message }) => {
      if (subject === "server") record.push([subject, status, message]);
      done += subject === "server";
    });
    thebe.bootstrap({
      useBinder: true,
      binderOptions: { binderUrl: base, repo: `${owner}/${name}`, ref },
      savedSessionOptions: { enabled: false },
    }).catch(() => {});
  }
</script>"""

CLIENTS = {"EventSource": EVENT_SOURCE, "fetch": FETCH, "binderhub-client": CLIENT, "thebe-core": THEBE_CORE, "thebe": THEBE}


CLIENT_AS_A_GLOBAL_VARIABLE = """
  import { BinderRepository } from "@jupyterhub/binderhub-client/client.js";
  window.BinderRepository = BinderRepository;
"""


@dataclass
class ThirdPartySite:
    """A web server with such pages, on `localhost`, which browsers consider another site than 127.0.0.1."""

    pages: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        npm = subprocess.run([TOP / "ci/thebe"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        script = bundle(CLIENT_AS_A_GLOBAL_VARIABLE)
        site = self

        class Pages(Handler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                if path.startswith("/npm/") and ".." not in path:
                    file = Path(npm) / path.removeprefix("/npm/")
                    body = file.read_bytes() if file.is_file() else None
                else:
                    body = {"/client.js": script, **site.pages}.get(path)
                kind = CONTENT_TYPES.get(Path(path).suffix, "application/octet-stream")
                headers = site.headers if path.endswith(".html") else {}
                self.answer(404 if body is None else 200, body or b"", kind, **headers)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self.origin = f"http://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, body: str, head: str = "", name: str = "page.html") -> str:
        """Serve a page. Returns its address."""
        start = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>A course</title><link rel=icon href='data:,'>"
            "<script>var record = [], done = 0, states = [];"
            "addEventListener('binder-egress', ({ detail }) => states.push(detail));</script>"
        )
        self.pages[f"/{name}"] = f"{start}{head}<body>{body}</body></html>".encode()
        return f"{self.origin}/{name}"
