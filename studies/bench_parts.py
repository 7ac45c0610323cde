"""What a pass and its refusal take of the processor, by parts, beside ALTCHA's library in Flask with the same Redis.

All in one process, in turns, without gunicorn, which costs each as much. A part does not include the parts inside it.
Decisions: D-365, D-531.

  bench_parts.py [requests in a round]
"""

import importlib
import inspect
import logging.config
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from typing import Any

import altcha
import flask
import prometheus_client
import redis
from bench_peers import Request, again, redeem_altcha, redeem_ours
from once import unless_once
from processes import processor_seconds
from prometheus_client.metrics import MetricWrapperBase
from rich.console import Console
from rich.table import Table
from werkzeug.test import EnvironBuilder

from binder_egress import logs
from binder_egress.captcha.altcha import Altcha
from binder_egress.model.passes import Passes
from binder_egress.store.issuing import Issuing
from binder_egress.web import bodies, passes, problems
from binder_egress.web.app import create_public_app, create_services
from tests.support.apps import CLIENT, RedisServer, make_settings
from tests.support.cluster.stage import TOP

console = Console(width=None if sys.stdout.isatty() else 120)

ROUNDS = 15
"""The turns of each app."""

OUTSIDE = "the client's address"
"""The part that a request begins with, before Flask."""

Seen = dict[tuple[str, ...], list[Counter[str]]]
"""App and kind of request → for each round, seconds of each part for one request."""


class Clock:
    """Gives the processor time of this thread to the part that it is in."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._part, self._since = OUTSIDE, time.thread_time()

    def change(self, part: str) -> str:
        """Begin a part. Returns the one before."""
        before, now = self._part, time.thread_time()
        self.spent[before] += now - self._since
        self._part, self._since = part, now
        return before

    def watch(self, part: str, owner: Any, name: str) -> None:
        """Count a function or method of a module or class to a part, from now on."""
        inner = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            before = self.change(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self.change(before)

        bound = isinstance(inspect.getattr_static(owner, name), staticmethod | classmethod)
        setattr(owner, name, staticmethod(call) if bound else call)


def watch_all(clock: Clock, peer: Any) -> None:
    """Count the parts of both apps. `peer` is the module of ALTCHA's."""
    for part, functions in {
        "Flask": [(flask.Flask, "wsgi_app")],
        "headers and origins": [(flask.Flask, "preprocess_request"), (flask.Flask, "process_response")],
        "the view: network, price, blocks": [(flask.Flask, "dispatch_request")],
        "body and answer": [
            (bodies, "read"), (bodies, "answer"), (problems, "response"), (flask.Request, "get_json"), (peer, "jsonify"),
        ],
        "solution": [(Altcha, "verify"), (altcha.Payload, "from_base64"), (altcha, "verify_solution")],
        "used up and charged: client of Redis": [(Issuing, "use_solution"), (redis.Redis, "execute_command")],
        "signature": [(Passes, "new"), (Passes, "sign")],
        "line of log": [(passes, "log_decision"), (passes, "log_refusal")],
        "metrics": [
            (MetricWrapperBase, "labels"), (prometheus_client.Counter, "inc"), (prometheus_client.Histogram, "observe"),
        ],
    }.items():  # fmt: skip
        for owner, name in functions:
            clock.watch(part, owner, name)


def main(number: int) -> None:
    """Measure, and print the table."""
    server, clock = RedisServer(), Clock()
    os.environ["REDIS_URL"] = server.url
    sys.path.append(str(TOP / "studies/peers"))
    peer = importlib.import_module("app")
    watch_all(clock, peer)
    with ExitStack() as stack:
        server.start()
        stack.callback(server.stop)
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        seen = measure(server, clock, peer, number)
    show(seen)


def measure(server: RedisServer, clock: Clock, peer: Any, number: int) -> Seen:
    """Send solutions to both apps, in turns, and each a second time."""
    logging.config.dictConfig(logs.configuration("info"))
    # One client presents all solutions, so the price must not rise.
    settings = make_settings(server, captcha_providers={"altcha": {"counterMax": 2}}, fairness_doubled_after=0)
    ours = create_public_app(create_services(settings))
    with redis.Redis.from_url(server.url) as client:
        store = client.info("server")["process_id"]
    seen: Seen = {}

    def send(app: flask.Flask, requests: list[Request], *column: str) -> list[bytes]:
        made = [environment(request) for request in requests]
        clock.change(OUTSIDE)
        clock.spent.clear()
        began = processor_seconds(store)
        answers = [answer(app, one, clock) for one in made]
        clock.spent["Redis"] = processor_seconds(store) - began
        if column:
            seen.setdefault(column, []).append(Counter({part: spent / len(made) for part, spent in clock.spent.items()}))
        return answers

    apps: dict[str, tuple[flask.Flask, str, Callable[[bytes], Request]]] = {
        "ours": (ours, "/egress/challenge", redeem_ours),
        "ALTCHA's": (peer.app, "/challenge", redeem_altcha),
    }
    for _ in range(ROUNDS):
        for name, (app, path, redeem) in apps.items():
            solved = [redeem(issued) for issued in send(app, [Request(path, 200)] * number)]
            send(app, solved, name, "pass")
            send(app, [again(request) for request in solved], name, "refusal")
    return seen


def environment(request: Request) -> dict[str, Any]:
    """A request as a server hands it to an app, with the status that is expected."""
    method = "GET" if request.body is None else "POST"
    body: Any = request.body
    made = EnvironBuilder(request.path, method=method, json=body, environ_base={"HTTP_X_FORWARDED_FOR": CLIENT})
    return {**made.get_environ(), "expected": str(request.status)}


def answer(app: flask.Flask, environ: dict[str, Any], clock: Clock) -> bytes:
    """The body of an app's answer."""
    statuses: list[str] = []
    before = clock.change(OUTSIDE)
    content = app.wsgi_app(environ, lambda status, *_: statuses.append(status))  # type: ignore[arg-type]
    body = b"".join(content)
    clock.change(before)
    assert statuses[0].startswith(environ["expected"]), (environ["PATH_INFO"], statuses, body)
    return body


def show(seen: Seen) -> None:
    """Print the medians, in shares of what ALTCHA's app takes to accept."""
    whole = statistics.median(spent.total() for spent in seen["ALTCHA's", "pass"])
    medians = {
        column: {part: statistics.median(spent[part] for spent in rounds) / whole for part in sorted({*rounds[0], *rounds[-1]})}
        for column, rounds in seen.items()
    }
    table = Table("", *(f"{name} {kind}" for name, kind in seen), title="By parts, of ALTCHA's pass", title_justify="left")
    for part in sorted(medians["ours", "pass"], key=lambda part: -medians["ours", "pass"][part]):
        table.add_row(part, *(f"{shares[part]:.2f}" if shares.get(part) else "" for shares in medians.values()))
    totals = [statistics.median(spent.total() for spent in rounds) / whole for rounds in seen.values()]
    table.add_row("all", *(f"{total:.2f}" for total in totals))
    console.print(table)


if __name__ == "__main__":
    main(unless_once(100, 2))
