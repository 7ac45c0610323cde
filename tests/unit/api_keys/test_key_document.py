"""docs/api-keys.md: its commands and its examples work."""

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import yaml
from binder_egress_client.verifier import Refused as NotGiven
from binder_egress_client.verifier import Verifier

from tests.support.api_keys import DOCUMENT
from tests.support.apps import (
    CLIENT,
    VerifierProcess,
)
from verifier.api_keys import (
    FORM,
    Entry,
)
from verifier.web.problems import TITLES


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_documented_commands_do_what_the_document_says(site, run):
    commands = [shlex.split(block.replace("\\\n", ""))[2:] for block in blocks("sh") if block.startswith("egress keys ")]
    create, listing, revoke = commands
    done = run(*create)
    assert done.exit_code == 0, done.output
    made = yaml.safe_load(done.output[done.output.index("apiKeys:") :])
    (shown,) = map(yaml.safe_load, blocks("yaml"))
    hidden = {"id": "", "hash": "", "expires": ""}
    entry, example = (values["apiKeys"]["keys"]["statistics-101"] for values in (made, shown))
    assert entry | hidden == example | hidden
    Entry.model_validate(example)
    site.entries = made["apiKeys"]["keys"]
    site.write()
    assert "statistics-101  valid" in run(*listing).output
    assert run(*revoke).exit_code == 0
    assert "statistics-101  revoked" in run(*listing).output


class Builds(BaseHTTPRequestHandler):
    """A hub that records the pass of each build, and passes other requests on to the verifier."""

    verifier: str
    tokens: ClassVar[list[str]]

    def do_GET(self):
        self.tokens += parse_qs(urlsplit(self.path).query)["egress_token"]
        self._answer(200, b'data: {"phase": "ready"}\n\n', "text/event-stream")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        headers["X-Forwarded-For"] = CLIENT
        answer = requests.post(self.verifier + self.path, data=body, headers=headers, timeout=10)
        self._answer(answer.status_code, answer.content, answer.headers["Content-Type"])

    def _answer(self, status, content, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(redis_server, tmp_path, site):
    """The address of a hub with a real verifier that reads the file of `site`."""
    process = VerifierProcess(redis_server, api_keys_file=str(site.file), tiers={"verified": {}, "small": {}})
    handler = type("Handler", (Builds,), {"verifier": process.public, "tokens": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.tokens
    server.shutdown()
    server.server_close()
    process.stop()


EVENT_SOURCE = "globalThis.EventSource = class { constructor(address) { fetch(address).then(() => process.exit(0)); } };"


@pytest.mark.parametrize("language", ["sh", "python", "js"])
def test_documented_examples_launch_with_a_pass(hub, site, language):
    address, tokens = hub
    key = site.add("owner")
    code = next(block for block in blocks(language) if not block.startswith("egress "))
    command = {
        "sh": ["bash", "-euo", "pipefail", "-c", code],
        "python": [sys.executable, "-c", code],
        "js": ["node", "--input-type=module", "-e", f"{EVENT_SOURCE}\nconst hub = process.env.HUB, key = process.env.KEY;\n{code}"],
    }[language]
    environment = {"PATH": os.environ["PATH"], "HUB": address, "KEY": key, "no_proxy": "*"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (token,) = tokens
    assert site.services.passes.read(token, time.time()).key == FORM.fullmatch(key)[1]


def test_client_gets_a_pass_for_a_key_or_is_told_what_is_wrong(hub, site):
    asked, key = Verifier(f"{hub[0]}/egress/"), site.add("owner")
    assert asked.pass_for_key(key)["servers"] == 1
    site.operators.revoke_key("owner", "eve", "leaked")
    for wrong, kind in ((key, "key-revoked"), ("another-key", "key-refused")):
        with pytest.raises(NotGiven) as caught:
            asked.pass_for_key(wrong)
        assert caught.value.kind == kind


def test_documented_answers_are_problem_types():
    listed = re.findall(r"^\| (\d{3}) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    found = {kind: int(status) for status, kinds in listed for kind in re.findall(r"`(.*?)`", kinds)}
    assert found == {kind: TITLES[kind][0] for kind in found}
    assert {kind for kind in TITLES if kind.startswith("key-") or "-keys" in kind} <= set(found)
