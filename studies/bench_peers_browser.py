"""Challenges of default work in Chromium, beside the widgets of ALTCHA and Cap: seconds to a solution, and bytes that are loaded.

Each page asks its own server, on loopback, for a challenge and solves it as its documentation says; they take turns. What a page
loads is counted in a browser with empty caches, packed as a web server would send it.
Decisions: D-366.

  bench_peers_browser.py FOLDER CHALLENGES     FOLDER is what studies/peers/build prints
"""

import gzip
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
from bench import console
from bench_browser import chromium, fresh_page, running_verifier, solver
from bench_peers import npm, process
from once import unless_once
from playwright.sync_api import Page, Response
from rich.table import Table

from binder_egress.web.assets import Assets
from tests.support.launch_page import HEADER, BinderHub
from tests.support.ports import free_port

OURS = """async (base) => {
  const began = performance.now();
  const answer = await (await fetch(`${base}challenge?purpose=launch`)).json();
  await measured.solve(answer.providers[0].challenge, (name) => measured.startWorker(name, base));
  return performance.now() - began;
}"""

ALTCHA = """() => new Promise((resolve, reject) => {
  const widget = document.createElement("altcha-widget");
  const began = performance.now();
  widget.addEventListener("statechange", ({ detail }) => {
    if (detail.state === "verified") resolve(performance.now() - began);
    if (detail.state === "error") reject(new Error(detail.state));
  });
  widget.setAttribute("auto", "onload");
  widget.setAttribute("challenge", "/challenge");
  document.body.replaceChildren(widget);
})"""

CAP = """async () => {
  const began = performance.now();
  await new Cap({ apiEndpoint: "/" }).solve();
  return performance.now() - began;
}"""


@dataclass
class Solver:
    """A page that solves challenges.

    Args:
        name: what the table calls it, with the version.
        page: the page.
        script: a function that solves one and returns milliseconds.
        argument: its argument.
    """

    name: str
    page: Page
    script: str
    argument: str = ""
    seconds: list[float] = field(default_factory=list)
    loaded: dict[str, bytes] = field(default_factory=dict)

    def note(self, response: Response) -> None:
        """Note a script or WebAssembly that came from a server. A blob comes from a script that is counted."""
        kind = response.headers.get("content-type", "")
        if response.url.startswith("http") and ("javascript" in kind or "wasm" in kind):
            self.loaded[urlsplit(response.url).path] = response.body()


def main(folder: Path, challenges: int) -> None:
    """Measure, and print a table."""
    with ExitStack() as stack:
        verifier, _ = stack.enter_context(running_verifier())
        browser = stack.enter_context(chromium())
        hub = BinderHub((verifier.public, verifier.internal), b"")
        stack.callback(hub.stop)
        solvers = []
        for kind, package, script in (("altcha", "altcha", ALTCHA), ("cap", "@cap.js/widget", CAP)):
            port = free_port()
            stack.enter_context(process(["node", str(folder / "server.mjs"), kind, str(port)], port))
            page = stack.enter_context(fresh_page(browser, ""))
            solvers.append(Solver(f"{package} {npm(folder, package)}", page, script))
            page.on("response", solvers[-1].note)
            page.goto(f"http://127.0.0.1:{port}/", wait_until="load")
        page = stack.enter_context(fresh_page(browser, ""))
        hub.header_html = {}
        page.goto(hub.url)
        page.add_script_tag(content=solver())
        ours = Solver("binder-egress", page, OURS, f"{hub.url}egress/")
        solvers.insert(0, ours)
        ours.loaded["the snippet in BinderHub's page"] = HEADER["zz-binder-egress"].encode()
        for path in ("launch.js", f"static/{Assets().file('worker-pbkdf2.js')}"):
            answer = requests.get(f"{verifier.public}/egress/{path}", headers={"Accept-Encoding": "identity"}, timeout=60)
            ours.loaded[path] = answer.content
        for turn in range(challenges + 1):
            for one in solvers:
                one.seconds.append(one.page.evaluate(one.script, one.argument) / 1000)
                console.print(f"challenge {turn} of {challenges}: {one.name}: {one.seconds[-1]:.2f} s")
    table = Table(
        "page", "median s", "a quarter is below", "a quarter is above", "max s", "of ours", "files", "bytes", "gzip -9",
        title=f"A challenge of default work in Chromium, {challenges} each; the first is not counted", title_justify="left",
    )  # fmt: skip
    base = statistics.median(ours.seconds[1:])
    for one in solvers:
        (low, median, high), contents = statistics.quantiles(one.seconds[1:], n=4), one.loaded.values()
        sizes = [str(len(contents)), *(f"{sum(map(len, made)):,}" for made in (contents, [gzip.compress(c, 9) for c in contents]))]
        seconds = (f"{value:.2f}" for value in (median, low, high, max(one.seconds[1:]), median / base))
        table.add_row(one.name, *seconds, *sizes)
    console.print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), unless_once(40, 2))
