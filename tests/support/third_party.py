"""A third-party page in the browser, its script tag, and the results of its launches."""

import json
import re

from binder_egress.model.records import Server
from tests.support.apps import reconciler
from tests.support.waiting import eventually


class Tab:
    """A page, and a record of its errors, messages and requests."""

    def __init__(self, page):
        self.page = page
        self.thrown = []
        self.console = []
        self.requests = []
        self.workers = []
        page.on("worker", lambda worker: self.workers.append(worker.url))
        page.on("pageerror", lambda error: self.thrown.append(str(error)))
        page.on("console", lambda message: self.console.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda request: self.requests.append(request.url))

    def launch(self, hub, name="cached", times=1):
        """Launch, and wait until the page's client reports the end."""
        before = self.page.evaluate("done")
        self.page.evaluate("(address) => { launch(address); }", f"{hub.url}build/gh/o/{name}/HEAD")
        self.page.wait_for_function("(count) => done >= count", arg=before + times)

    def launch_granted(self, hub, store):
        """Launch the first server, whose tier the reconciler writes."""
        with reconciler(store, Server("user-1")):
            self.launch(hub)
            return self.state("granted")

    def record(self):
        """The client's reports to the page, without the parts that differ from launch to launch."""
        text = re.sub(r"user-\d+", "user", json.dumps(self.page.evaluate("record")))
        return re.sub(r"http://127\.0\.0\.1:\d+", "hub", text)

    def state(self, expected):
        """Wait until the script reports a state. Returns the details of that event."""
        self.page.wait_for_function("(expected) => states.at(-1)?.state === expected", arg=expected)
        return self.page.evaluate("states.at(-1)")


def script_tag(hub, **data):
    """The tag, without `async`, so that a test need not wait for it, and without a checksum."""
    attributes = "".join(f' data-{name}="{value}"' for name, value in data.items())
    return f'<script src="{hub.url}egress/v1/third-party.js"{attributes}></script>'


def await_tier(store, user="user-1", tier="verified"):
    eventually(lambda: store.known(Server(user)).tier == tier, what=f"{user} is not {tier}")


def asked(build):
    """A build request as BinderHub sees it, without the host, which differs between doubles."""
    return build.spec, build.query, {name: value for name, value in build.headers.items() if name.lower() != "host"}
