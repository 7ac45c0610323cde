"""Fixtures: a site for the command-line client, with the real verifier behind a double of BinderHub."""

import json
import sys
import threading
from functools import partial

import pytest
from flask import request
from werkzeug.serving import make_server

from binder_egress.gate import api_keys as keys
from binder_egress.model.records import KnownServer, Server
from binder_egress.web.app import create_internal_app, create_public_app, create_services
from binder_egress_client import command
from tests.support.apps import carried, make_settings
from tests.support.client_command import HCAPTCHA
from tests.support.launch_page import BinderHub


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Remove settings of the machine's environment that would influence a test."""
    names = ["BINDER_URL", "BINDER_EGRESS_KEY", "NO_COLOR", "FORCE_COLOR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (*names, *proxies, *map(str.lower, proxies)):
        monkeypatch.delenv(name, raising=False)
    # Longer times than in production: CI machines are slow.
    monkeypatch.setattr("binder_egress_client.check.GRACE", 20)


@pytest.fixture
def start():
    """Returns a function that serves a WSGI application, in chunks if it gives no length; it returns the address."""
    servers = []

    def start(app):
        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve(start, redis_server, store):
    """Returns a function that starts the two apps of a site with given settings; it returns their addresses."""

    def serve(public_app=create_public_app, **overrides):
        services = create_services(make_settings(redis_server, **{"launch_hold": 20, **overrides}), store)
        return start(public_app(services)), start(create_internal_app(services))

    return serve


@pytest.fixture
def open_hub(store):
    """Returns a function that starts a BinderHub whose servers the verifier knows once they are ready."""
    hubs = []

    def open_hub(addresses, kind=BinderHub):
        hub = kind(addresses, b"")

        def appear(user):
            build = hub.builds[-1]
            grant = carried(build.tier or "unverified")
            store.publish(Server(user), KnownServer(f"uid-{user}", grant, f"https://example.com/{build.spec}"))

        hub.launched = appear
        hubs.append(hub)
        return hub

    yield open_hub
    for hub in hubs:
        hub.stop()


@pytest.fixture
def hub(serve, open_hub):
    return open_hub(serve())


@pytest.fixture
def run(monkeypatch, capsys):
    """Returns a function that runs the command in this process and returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["binder-egress-client", *arguments])
        with pytest.raises(SystemExit) as end:
            command.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def say(start):
    """Returns a function that starts a server with one answer to each request; it returns the address."""

    def say(body, kind, status=200, **headers):
        def app(_, start_response):
            named = [(name.replace("_", "-"), value) for name, value in headers.items()]
            start_response(f"{status} Said", [("Content-Type", kind), *named])
            return [body]

        return start(app)

    return say


@pytest.fixture
def keyed(serve, open_hub, tmp_path):
    """A hub with an API key for the launched repository, which records the `Authorization` headers by path.

    It has no provider that a program can solve, so only the key can give a pass.
    """
    hub = open_hub(None)
    hub.key, entry = keys.create("verified", 3, "2999-12-31", [], ["example.com/gh/o/*"])
    (tmp_path / "keys.json").write_text(json.dumps({"course": entry.model_dump()}))
    hub.sent = []

    def app(services):
        made = create_public_app(services)

        @made.before_request
        def note():
            if "Authorization" in request.headers:
                hub.sent.append((request.path, request.headers["Authorization"], request.get_json()))

        return made

    hub.start = partial(serve, public_app=app, api_keys_file=str(tmp_path / "keys.json"), **HCAPTCHA)
    hub.verifier = hub.start()
    return hub
