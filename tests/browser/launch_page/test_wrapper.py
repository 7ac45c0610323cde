"""The wrapper of `fetch`, which changes launches and nothing else."""

import gzip
import json
import re
import subprocess

import pytest

from tests.support import TOP
from tests.support.launch_page import HEADER
from tests.support.launch_tab import LOADED, PROMISE, open_when_solved
from tests.support.waiting import eventually

RECORD = """
  window.calls = [];
  window.answers = [];
  window.fetch = function (...args) {
    const answer = args[0] === "/reject" ? Promise.reject(new TypeError("as it was")) : Promise.resolve(new Response("x"));
    answer.catch(() => {});
    window.calls.push({ self: this, args });
    window.answers.push(answer);
    return answer;
  };
"""


@pytest.mark.parametrize("loaded", [False, True], ids=["before launch.js", "after launch.js"])
def test_other_requests_pass_through_untouched(loaded, hub, tab):
    opened = tab()
    opened.page.add_init_script(RECORD)
    if not loaded:
        hub.fault = "404"
        opened.noise.append("404")
    opened.page.goto(hub.url)
    if loaded:
        opened.page.wait_for_function(LOADED)
    result = opened.page.evaluate(
        """async () => {
          const form = new FormData();
          form.append("a", "b");
          const aborted = AbortSignal.abort("why");
          const request = new Request("/build-elsewhere/x", { method: "POST", body: form });
          const self = { fetch: window.fetch };
          const cases = {
            text: [window, ["/api/x"]],
            none: [window, []],
            url: [window, [new URL("/api/x?build/=1", location.href)]],
            form: [window, ["/upload", { method: "POST", body: form }]],
            request: [window, [request]],
            signal: [window, ["/x", { signal: aborted }]],
            rejected: [window, ["/reject"]],
            self: [self, ["/x", undefined, 3]],
            undefined: [undefined, ["/x"]],
            object: [window, [{ toString: () => "/x" }]],
            otherhost: [window, ["https://example.org/build/gh/o/r/HEAD"]],
            buildOnly: [window, ["/build/gh/o/r/HEAD?build_only=true"]],
            ownToken: [window, ["/build/gh/o/r/HEAD?egress_token=mine"]],
            post: [window, ["/build/gh/o/r/HEAD", { method: "POST", body: "x" }]],
            postRequest: [window, [new Request("/build/gh/o/r/HEAD", { method: "POST", body: "x" })]],
          };
          const results = {};
          for (const [name, [on, args]] of Object.entries(cases)) {
            window.calls.length = window.answers.length = 0;
            const answer = window.fetch.apply(on, args);
            const [call] = window.calls;
            results[name] = window.calls.length === 1 && answer === window.answers[0] && call.args.length === args.length
              && call.args.every((arg, index) => arg === args[index]) && call.self === (on ?? window);
            await answer.catch((error) => { results[name] &&= error.message === "as it was" && name === "rejected"; });
          }
          return results;
        }"""
    )
    assert result == dict.fromkeys(result, True) and len(result) == 15
    assert hub.count("GET /egress/challenge") == 0


def test_build_request_is_unchanged_except_for_the_promise(hub, tab):
    opened = tab()
    open_when_solved(hub, opened)
    address = "/build/gh/o/r%2Fx/HEAD?mine=a%20b+c&x=%C3%A9"
    for number, make in enumerate(("address", "new URL(address, location.href)", "new Request(address)")):
        answer = opened.page.evaluate(
            f"""async (address) => {{
              const answer = await fetch({make}, {{ headers: {{ "Accept": "text/event-stream", "X-Mine": "1" }} }});
              return [answer.url, answer.status, (await answer.text()).length > 0];
            }}""",
            address,
        )
        build = hub.builds[number]
        assert answer[0].startswith(hub.url.rstrip("/") + address + "&egress_token=")
        assert answer[1:] == [200, True]
        assert PROMISE.fullmatch(build.token)
        assert build.headers["X-Mine"] == "1"


def test_build_request_can_be_aborted(hub, tab):
    hub.ready.close()
    opened = tab()
    open_when_solved(hub, opened)
    opened.page.evaluate(
        """() => {
          globalThis.controller = new AbortController();
          globalThis.answer = fetch("/build/gh/o/r/HEAD", { signal: controller.signal, headers: { accept: "text/event-stream" } })
            .then(async ({ body }) => { for (const reader = body.getReader(); !(await reader.read()).done;) ; });
        }"""
    )
    eventually(lambda: hub.builds and hub.builds[0].tier, what="no build")
    reason = opened.page.evaluate("controller.abort('why'), answer.then(() => 'answered', (error) => error)")
    assert reason == "why"
    opened.page.wait_for_function("window.binderEgress?.state === 'failed'")


def test_answer_is_what_the_page_asked_for_if_launch_js_breaks(hub, tab):
    """A part of launch.js that fails must not fail the page."""
    opened = tab()
    open_when_solved(hub, opened)
    opened.page.evaluate("() => { binderEgress.launches[0].read = () => { throw new Error('no'); }; }")
    hub.bundle.open()
    opened.server("user-1")


def test_wrapper_is_small_and_written_in_es5():
    """At most 1,800 bytes, in ECMAScript 5 (2009), which old browsers parse."""
    [script] = re.findall(r"<script>(.*?)</script>", HEADER["zz-binder-egress"], re.DOTALL)
    esbuild = TOP / "frontend/node_modules/.bin/esbuild"
    small = subprocess.run([esbuild, "--minify", "--target=es5"], input=script.encode(), check=True, stdout=subprocess.PIPE).stdout
    assert len(small) <= 1800
    # With a target, esbuild rewrites or refuses newer syntax. Without one it keeps it.
    plain = subprocess.run([esbuild, "--minify-whitespace"], input=script.encode(), check=True, stdout=subprocess.PIPE).stdout
    assert not re.search(rb"=>|`|\bconst\b|\blet\b|\?\.|\?\?|\basync\b(?!=)|\bclass\b", plain)
    assert "{{" not in script


def test_launch_js_is_small():
    """The limit includes ALTCHA's library. Workers and widgets are files of their own."""
    static = TOP / "verifier/binder_egress/web/static"
    name = json.loads((static / "manifest.json").read_text())["launch.js"]
    assert len(gzip.compress((static / name).read_bytes(), 9)) <= 10_240
