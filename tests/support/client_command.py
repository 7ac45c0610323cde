"""The command-line client, as a process and on a terminal."""

import os
import shlex
import subprocess
import sys
import time

from binder_egress.model.records import KnownServer, Server
from tests.support import TOP
from tests.support.apps import carried
from tests.support.launch_page import BinderHub

PACKAGE = TOP / "client/binder_egress_client"
SPEC = "gh/o/cached/HEAD"
HCAPTCHA = {"captcha_providers": {"hcaptcha": {"siteKey": "site-key"}}, "captcha_secrets": {"HCAPTCHA": "provider-secret"}}
COMMAND = [sys.executable, "-m", "binder_egress_client"]


def environment(**variables):
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **variables}


def process(*arguments, **options):
    """The command as a process."""
    return subprocess.Popen([*COMMAND, *arguments], env=environment(), text=True, **options)


def on_a_terminal(*arguments, **variables):
    """Run the command on a terminal. Returns its output and its exit code."""
    script = ["script", "--quiet", "--return", "--command", shlex.join([*COMMAND, *arguments]), "/dev/null"]
    shown = environment(TERM="xterm-256color", COLUMNS="100", **variables)
    done = subprocess.run(script, env=shown, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=60)
    return done.stdout.decode(), done.returncode


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
