"""The command-line client, as a process and on a terminal."""

import os
import pty
import subprocess
import sys
import time

from tests.support import TOP
from tests.support.apps import carried
from tests.support.launch_page import BinderHub
from verifier.records import KnownServer, Server

PACKAGE = TOP / "client/binder_egress_client"
SPEC = "gh/o/cached/HEAD"
HCAPTCHA = {"captcha_providers": {"hcaptcha": {"siteKey": "site-key"}}, "captcha_secrets": {"HCAPTCHA": "provider-secret"}}


def process(*arguments, **options):
    """The command as a process."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **options.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "binder_egress_client", *arguments], env=environment, text=True, **options)


def on_a_terminal(*arguments, env=None):
    """Run the command on a terminal. Returns its output and its exit code."""
    master, slave = pty.openpty()
    running = process(
        *arguments, stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm-256color", "COLUMNS": "100", **(env or {})}
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # Linux reports the end of a terminal as an error
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    return shown.decode(), running.wait(60)


class Streams(BinderHub):
    """A BinderHub whose build streams consist of the `events` that a test sets."""

    events = ()

    def events_of(self, build):
        yield from self.events


# -- leases


LEASING = {"tiers": {"verified": {"lease": 60}, "small": {}}}


def lease(store, expires_in, tier="verified"):
    """Publish alice's server with a tier that ends in `expires_in` seconds. Returns the Unix time of the end."""
    until = int(time.time()) + expires_in
    store.publish(Server("alice"), KnownServer("uid-1", carried(tier, "grant-1", until=until), "https://example.com/a/b"))
    return until
