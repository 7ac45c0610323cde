"""The measurements of ci/bench that are about people who launch: in Chromium, of what browsers load, and of captcha providers.

BinderHub and the remote providers are the doubles of the tests, all on loopback. The verifier, its Redis, the browser and the npm
client are real, and the proof of work is the default one; its price stays at 1 for everybody.
"""

import gzip
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import altcha
import requests
from bench import console, percentile
from once import unless_once
from playwright.sync_api import Browser, Page, sync_playwright
from rich.table import Table

from binder_egress.captcha import ROWS, Outcome, Remote
from binder_egress.captcha.altcha import Altcha, Options
from binder_egress.store.connection import connect
from binder_egress.web.assets import Assets
from tests.support.apps import KEYS, RedisServer, VerifierProcess, make_settings, run_pod
from tests.support.browser import CHROMIUM
from tests.support.browser import launch as start_browser
from tests.support.doubles import SECRET, Double
from tests.support.launch_page import HEADER, TOP, BinderHub, Build, Gate, bundle
from tests.support.store import Store

CACHED, BUILD = unless_once(2.0, 0.5), unless_once(8.0, 1.0)
"""Seconds that a pod takes to start, from the announcement of its launch to `ready`; and seconds of a build before that."""

LOADED = 1.0
"""Seconds for which a browser loads BinderHub's page script (large; launch.js comes first) where it does not have it yet."""

SLOWER = 4
"""How many times slower a slow device is. Chromium slows down a page's script, and no worker: a worker gets so much more work."""


class After(Gate):
    """A gate that opens for each request after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def pass_through(self) -> None:
        time.sleep(self.seconds)


class Noted(Gate):
    """An open gate that notes when a request last passed, Unix time in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 0.0

    def pass_through(self) -> None:
        self.moment = time.time()


@contextmanager
def running_verifier(times: int = 1) -> Iterator[tuple[VerifierProcess, Store]]:
    """A verifier with so many times the default proof of work, and what a reconciler would write to."""
    server = RedisServer()
    server.start()
    work = {"counterMax": times * Options().counterMax}
    # Quiet, since nobody reads its log.
    process = VerifierProcess(server, captcha_providers={"altcha": work}, fairness_doubled_after=0, log_level="warning")
    client = connect(make_settings(server))
    try:
        yield process, Store(client)
    finally:
        client.close()
        process.stop()
        server.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium as people use it."""
    with sync_playwright() as playwright:
        browser = start_browser(playwright, CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def fresh_page(browser: Browser, script: str) -> Iterator[Page]:
    """A page of somebody who was never here: with empty caches. The script runs before each document's own."""
    context = browser.new_context()
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.add_init_script(script)
    yield page
    context.close()


@contextmanager
def busy(processors: int) -> Iterator[None]:
    """Keep so many processors busy with something else, at the priority of everything here."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processors)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


class TimedBinderHub(BinderHub):
    """The double, with builds that take time, and the moments of its last launch.

    Attributes:
        build_seconds: how long an image is built before its launch is announced.
        requested: when the build request arrived, Unix time in seconds.
        announced: when the launch was announced.
        ready_at: when the event `ready` was sent.
        slower: how many times slower than this machine the visitor's device is.
    """

    slower = 1
    build_seconds = 0.0
    requested = announced = ready_at = 0.0

    def events_of(self, build: Build) -> Iterator[dict[str, Any]]:
        self.requested = time.time()
        time.sleep(self.build_seconds)
        self.announced = time.time()
        for event in super().events_of(build):
            if event["phase"] == "ready":
                self.ready_at = time.time()
            yield event


@dataclass
class Launched:
    """One launch.

    Attributes:
        took: seconds from the press of the button, or from the beginning of the page's load, until the server's page has arrived.
        kept: seconds from the build request until the solution that keeps its promise arrived; None: it did not.
        when: where that lies: "announced" before the launch was announced, "ready" before the server was ready, "held" while the
            server waited for it, "never".
    """

    took: float
    kept: float | None
    when: str


@dataclass
class Case:
    """A way to launch: from the form or by a link; seconds until the page's script has loaded, and of the build."""

    name: str
    form: bool
    loaded: float
    built: float
    times: int


OFTEN, SELDOM = unless_once(15, 1), unless_once(6, 1)
"""Launches of an image that exists, and of one that is built."""

CASES = [
    Case("link, script at once", False, 0.0, 0.0, OFTEN),
    Case(f"link, script after {LOADED:g} s", False, LOADED, 0.0, OFTEN),
    Case("form", True, 0.0, 0.0, OFTEN),
    Case(f"link, build of {BUILD:g} s", False, 0.0, BUILD, SELDOM),
    Case(f"form, build of {BUILD:g} s", True, 0.0, BUILD, SELDOM),
]


def launch() -> None:
    """From the launch page to the server's page, with what the chart puts into the page and without it, in turns."""
    script, processors = bundle(), os.cpu_count() or 1
    with chromium() as browser:
        for name, spinning, slower in (
            ("quiet", 0, 1),
            (f"{processors} processors busy with something else", processors, 1),
            (f"a device {SLOWER} times slower", 0, SLOWER),
        ):
            # With fewer than 20 launches the 95th percentile is the worst of them.
            table = Table(
                "", "times", "lost: median", "p95", "kept: median", "p95", "worst", "announced", "ready", "held", "never",
                title=f"Seconds, {name}; pods start in {CACHED:g} s",
                caption="kept: the promise, after the build request; how often before the launch was announced, before the server"
                " was ready, while it waited, and never",
                title_justify="left",
                caption_justify="left",
            )  # fmt: skip
            with busy(spinning), running_verifier(slower) as (process, store):
                hub = TimedBinderHub((process.public, process.internal), script)
                hub.slower = slower
                hub.launched = partial(run_pod, store)
                launch_once(browser, hub, CASES[0])
                for case in CASES:
                    table.add_row(case.name, str(case.times), *measured(browser, hub, case))
                hub.stop()
            console.print(table)


def measured(browser: Browser, hub: TimedBinderHub, case: Case) -> list[str]:
    """The figures of a case: a row of the table."""
    hub.bundle, hub.ready, hub.build_seconds = After(seconds=case.loaded), After(seconds=CACHED), case.built
    lost, ours = [], []
    for number in range(case.times):
        took = {}
        for with_us in (True, False) if number % 2 else (False, True):
            hub.header_html = dict(HEADER) if with_us else {}
            one = launch_once(browser, hub, case)
            took[with_us] = one.took
            if with_us:
                ours.append(one)
                console.print(f"{case.name}: launch {number + 1} of {case.times}: {one}")
        lost.append(took[True] - took[False])
    kept = [one.kept for one in ours if one.kept is not None]
    figures = [statistics.median(lost), percentile(lost, 0.95)]
    figures += [statistics.median(kept), percentile(kept, 0.95), max(kept)] if kept else [math.nan] * 3
    ends = Counter(one.when for one in ours)
    return [*(f"{figure:.2f}" for figure in figures), *(str(ends[when]) for when in ("announced", "ready", "held", "never"))]


REMEMBER = """
  if (!location.pathname.includes("/user/")) {
    sessionStorage.setItem("began", performance.timeOrigin);
    addEventListener("submit", () => sessionStorage.setItem("began", performance.timeOrigin + performance.now()), true);
  }
"""
"""Notes when the launch began. The server's page is of the same origin, and so shares this."""


def launch_once(browser: Browser, hub: TimedBinderHub, case: Case) -> Launched:
    """Launch once, with empty caches."""
    solved = hub.gates["passes"] = Noted()
    with fresh_page(browser, REMEMBER) as page:
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": hub.slower})
        if case.form:
            page.goto(hub.url)
            page.locator("input[name=repository]").fill("o/cached")
            page.locator("#btn-launch").click()
        else:
            page.goto(hub.page(), wait_until="commit")
        page.wait_for_url(f"{hub.url}user/**")
        took = page.evaluate(
            "performance.timeOrigin + performance.getEntriesByType('navigation')[0].responseEnd - sessionStorage.getItem('began')"
        )
        assert f"/{hub.builds[-1].user}/" in page.url
    if not solved.moment:
        return Launched(took / 1000, None, "never")
    when = "announced" if solved.moment < hub.announced else "ready" if solved.moment < hub.ready_at else "held"
    return Launched(took / 1000, solved.moment - hub.requested, when)


def solver() -> str:
    """The solver of the front end, as a script that makes it `measured.solve` and `measured.startWorker`."""
    manifest = (TOP / "verifier/binder_egress/web/static/manifest.json").read_text()
    command = [TOP / "frontend/node_modules/.bin/esbuild", "--bundle", "--format=iife", "--global-name=measured"]
    return subprocess.run(
        [*command, f"--define:MANIFEST={json.dumps(json.loads(manifest))}"],
        input=b'export { solve } from "./solve.js"; export { startWorker } from "./workers.js";',
        cwd=TOP / "frontend/src",
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()


def solve() -> None:
    """The same challenges of default cost, solved by frontend/src/solve.js with one worker and with two, in turns."""
    challenges = unless_once(10, 1)
    source = solver()
    times: dict[int, list[float]] = {1: [], 2: []}
    derivations: list[int] = []
    with running_verifier() as (process, _), chromium() as browser:
        hub = BinderHub((process.public, process.internal), b"")
        hub.header_html = {}
        # solve.js takes as many workers as there are processors, two at most.
        cores = "Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', {{ get: () => {} }})".format
        with fresh_page(browser, cores(1)) as one, fresh_page(browser, cores(2)) as two:
            pages = {1: one, 2: two}
            started: dict[int, list[object]] = {1: [], 2: []}
            for workers, page in pages.items():
                page.on("worker", lambda worker, seen=started[workers]: seen.append(worker))
                page.goto(hub.url)
                page.add_script_tag(content=source)
            for number in range(challenges + 1):
                challenge = requests.get(f"{process.public}/egress/challenge?purpose=launch", timeout=60).json()["providers"][0][
                    "challenge"
                ]
                assert challenge["parameters"]["data"]["price"] == 1
                for workers in (1, 2) if number % 2 else (2, 1):
                    took, solution = pages[workers].evaluate(
                        """async ([challenge, base]) => {
                          const began = performance.now();
                          const solution = await measured.solve(challenge, (name) => measured.startWorker(name, base));
                          return [performance.now() - began, solution];
                        }""",
                        [challenge, f"{hub.url}egress/"],
                    )
                    # The first one loads the worker, and is not counted.
                    if number:
                        times[workers].append(took / 1000)
                body = {"provider": "altcha", "solution": solution}
                answer = requests.post(f"{process.public}/egress/passes", json=body, timeout=60)
                assert answer.status_code == 201, answer.text
                if number:
                    payload = altcha.Payload.from_base64(solution)
                    derivations.append(payload.solution.counter)
            assert {workers: len(all_of) for workers, all_of in started.items()} == {1: challenges + 1, 2: 2 * challenges + 2}
        hub.stop()
    table = Table(
        f"{challenges} challenges each",
        "median s",
        "max s",
        "key derivations a second",
        title="Default proof of work",
        title_justify="left",
    )
    for workers, values in times.items():
        rate = sum(derivations) / sum(values)
        table.add_row(
            f"{workers} worker{'s' * (workers > 1)}", f"{statistics.median(values):.2f}", f"{max(values):.2f}", f"{rate:,.0f}"
        )
    ratios = [two / one for one, two in zip(times[1], times[2], strict=True)]
    table.add_row("2 workers / 1, of each challenge", f"{statistics.median(ratios):.2f}", f"{max(ratios):.2f}", "")
    console.print(table)


def weight() -> None:
    """What browsers load, in bytes."""
    pages = {
        "launch page: the snippet in it": HEADER["zz-binder-egress"].encode(),
        "launch.js": None,
        "worker-pbkdf2.js": None,
        "widgets.js": None,
        "server page": None,
        "server.js": None,
        "server.css": None,
    }
    sent: dict[str, str] = {}
    assets = Assets()
    with running_verifier() as (process, store):
        run_pod(store)
        for name in [name for name, content in pages.items() if content is None]:
            path = {"server page": "servers/alice", "launch.js": "launch.js"}.get(name)
            answer = requests.get(
                f"{process.public}/egress/{path or f'static/{assets.file(name)}'}",
                headers={"Accept": "text/html, */*;q=0.1", "Accept-Encoding": "gzip"},
                timeout=60,
            )
            answer.raise_for_status()
            pages[name] = answer.content
            sent[name] = answer.headers.get("Content-Encoding", "as it is")
    # What a person with the default provider loads: no widgets.
    sums = {
        "launch page, all that we add": ["launch page: the snippet in it", "launch.js", "worker-pbkdf2.js"],
        "server page, all": ["server page", "server.js", "server.css", "worker-pbkdf2.js"],
    }
    table = Table(
        "file", "bytes", "gzip -9", "sent by the verifier", title="What browsers load, with empty caches", title_justify="left"
    )
    sizes = {name: (len(content), len(gzip.compress(content, 9))) for name, content in pages.items() if content is not None}
    for name, (raw, small) in sizes.items():
        table.add_row(name, f"{raw:,}", f"{small:,}", sent.get(name, "in BinderHub's page"))
    for name, parts in sums.items():
        table.add_row(name, *(f"{sum(sizes[part][index] for part in parts):,}" for index in (0, 1)), "")
    console.print(table)


DOUBLE = """
from tests.support.doubles import running
with running() as double:
    print(double.url, flush=True)
    input()
"""


def providers() -> None:
    """Verifications per second of our own processor time. The providers' double is another process, whose time is not counted."""
    process = subprocess.Popen(
        [sys.executable, "-c", DOUBLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin and process.stdout
    found: dict[str, tuple[float, float]] = {}
    try:
        double = Double()
        double.url = process.stdout.readline().strip()
        for name, row in ROWS.items():
            provider = Remote.from_options(name, row, double.options(name), SECRET, frozenset(), False)
            site_key = double.options(name)["siteKey"]
            url = f"{double.url}/{name}{row.path.format(site_key=site_key)}"

            def verify(token: str, provider: Remote = provider) -> None:
                verdict = provider.verify(token, "launch", "", "")
                assert verdict.outcome is Outcome.OK, verdict

            def post(token: str, row=row, url: str = url, site_key: str = site_key) -> None:
                known = {"secret": SECRET, "solution": token, "site_key": site_key}
                sent = {theirs: known[ours] for ours, theirs in row.fields.items() if ours in known}
                headers = {row.key_header: SECRET} if row.key_header else {}
                answer = requests.post(url, headers=headers, timeout=5, **{"json" if row.as_json else "data": sent})
                assert answer.status_code == 200, answer.text

            found[name] = rates(verify, post, lambda name=name: double.token(name, action="launch"))
    finally:
        process.stdin.close()
        process.wait()
    own = Altcha.from_options({}, KEYS.splitlines())
    challenge = altcha.Challenge.from_dict(own.challenge("launch", "", 1))
    solution = altcha.solve_challenge(challenge)
    assert solution
    payload = altcha.Payload(challenge, solution).to_base64()

    def check(_: str) -> None:
        verdict = own.verify(payload, "launch", "", "")
        assert verdict.outcome is Outcome.OK, verdict

    usual = statistics.median(bare for _, bare in found.values())
    found["altcha"] = (rates(check, check, lambda: "")[0], usual)
    table = Table(
        "provider", "verifications per second and core", "bare requests.post", "ratio",
        caption="altcha asks nobody; beside it is the median of the bare posts", caption_justify="left",
        title="Solutions, of remote providers against their double", title_justify="left",
    )  # fmt: skip
    for name, (ours, bare) in found.items():
        table.add_row(name, f"{ours:,.0f}", f"{bare:,.0f}", f"{ours / bare:.2f}")
    console.print(table)


def rates(ours: Callable[[str], None], bare: Callable[[str], None], token: Callable[[], str]) -> tuple[float, float]:
    """Calls per second of processor time, each the median of all rounds but the first, in turns."""
    found: list[list[float]] = [[], []]
    for _ in range(1 + unless_once(5, 1)):
        for call, values in zip((ours, bare), found, strict=True):
            tokens = [token() for _ in range(unless_once(40, 2))]
            began = time.process_time()
            for one in tokens:
                call(one)
            values.append(len(tokens) / (time.process_time() - began))
    return statistics.median(found[0][1:]), statistics.median(found[1][1:])


PARTS: dict[str, Callable[[], None]] = {"weight": weight, "providers": providers, "solve": solve, "launch": launch}


if __name__ == "__main__":
    console.print(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} before we began")
    for part, run in PARTS.items():
        if part in sys.argv[1:]:
            run()
