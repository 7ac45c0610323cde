"""Words of the command `binder-egress`: each starts one of the processes, or compares the results of `helm test`."""

import functools
import json
import logging.config
import signal
import sys
import threading
from typing import Protocol

import click

from .. import __version__, logs
from ..settings import (
    ConnectionsSettings,
    InvalidSettings,
    ProxySettings,
    ReceiverSettings,
    ReconcilerSettings,
    VerifierSettings,
    load,
)
from ..store.connection import connect
from ..store.store import ProxyStore, ReceiverStore, ReconcilerStore
from ..web.assets import AssetsMissing


@click.group(
    help="Captcha-gated network egress for BinderHub user pods. Settings come from environment variables.",
    epilog="Also: `start-guard` in user pods, `probe` in the canary's pod, and `agent` in the agent's image.",
)
@click.version_option(__version__)
def cli() -> None:
    pass


@cli.command(help="Run the verifier: it checks solutions, issues passes and decides launches.")
def verifier() -> None:
    # Not at the top: no other process needs Flask.
    from ..web.app import create_app, create_services
    from ..web.gunicorn import PortServer, Threads

    settings = load(VerifierSettings)
    services = create_services(settings)
    ports = settings.public_port, settings.internal_port
    threads = functools.partial(Threads, settings.threads, settings.internal_port)
    PortServer(create_app(services), ports, settings.log_level, threads, services.captcha.start).run()


class _Endless(Protocol):
    def run(self) -> None: ...


def _beside(name: str, part: _Endless | None) -> None:
    """Run a part of the process, if there is one, in a thread of its own."""
    if part:
        threading.Thread(target=part.run, name=name, daemon=True).start()


@cli.command(help="Run the reconciler: it labels user pods with the tier that was decided.")
def reconciler() -> None:
    # Not at the top: the verifier must not load the Kubernetes client.
    from ..gatecheck.canaries import Canaries
    from ..gatecheck.check import Namespace, Watcher
    from ..gatecheck.label_delay import LabelDelays
    from ..gatecheck.nodes import Nodes
    from ..reconciler.agents import Agents
    from ..reconciler.changed_tiers import ChangedTiers
    from ..reconciler.loop import Reconciler
    from ..reconciler.proxy_variables import ProxyVariables
    from ..reconciler.saved_blocks import SavedBlocks
    from ..reconciler.user_pods import UserPods

    settings = load(ReconcilerSettings)
    logging.config.dictConfig(logs.configuration(settings.log_level))

    def store() -> ReconcilerStore:
        """A connection of its own, so that no part slows down another."""
        return ReconcilerStore(connect(settings))

    agents = Agents(settings.namespace, settings.agent_labels, store()) if settings.agent_labels else None
    user_pods = UserPods(settings.namespace, settings.user_pod_labels)
    canaries = Canaries(settings.namespace) if settings.canary else None
    delays = LabelDelays(canaries, store())
    tiers = ChangedTiers(settings.namespace, settings.connections, delays.of) if settings.connections else None
    process = Reconciler(
        settings, user_pods, store(), agents=agents, tiers=tiers,
        opening_seconds=delays.opening_seconds, soon=delays.soon, labels=delays.of,
    )  # fmt: skip
    nodes = None
    if canaries and settings.node_canaries:
        nodes = Nodes(canaries, delays, process.by_node, agents.nodes if agents else lambda: None)
    rows = nodes.rows if nodes else dict
    ended = tiers.ended if tiers else dict
    _beside("gatecheck", Watcher(settings, Namespace(settings.namespace), store(), process.label_sets, delays.worst, rows, ended))
    _beside("label-delay", delays)
    _beside("saved-blocks", SavedBlocks(settings.namespace, settings.saved_blocks, store()).attempts)
    _beside("nodes", nodes)
    _beside("changed-tiers", tiers)
    if agents:
        _beside("agents", agents.attempts)
    if settings.proxy_service:
        _beside("proxy-variables", ProxyVariables(settings.namespace, settings.proxy_service).attempts)
    signal.signal(signal.SIGTERM, lambda *_: process.stop())
    signal.signal(signal.SIGINT, lambda *_: process.stop())
    process.run()


@cli.command(help="Run the receiver: reports of detectors come in at its port.")
def receiver() -> None:
    # Not at the top, so that other processes do not load it.
    from ..web.gunicorn import REPORT_CONNECTIONS, REPORT_RECEIVE_SECONDS, REPORTS_AT_A_TIME, PortServer, Threads
    from ..web.receiver import MAX_REPORT_BYTES, create_receiver_app, create_receiver_services

    settings = load(ReceiverSettings)
    app = create_receiver_app(create_receiver_services(settings, ReceiverStore(connect(settings))))
    # Its one port has the limits of the verifier's public port: a detector that sends slowly does not hold up others.
    threads = functools.partial(
        Threads,
        REPORTS_AT_A_TIME,
        internal_port=0,
        receive_seconds=REPORT_RECEIVE_SECONDS,
        connections=REPORT_CONNECTIONS,
        max_body=MAX_REPORT_BYTES,
    )
    PortServer(app, [settings.reports_port], settings.log_level, threads).run()


@cli.command(help="Run the egress proxy: user pods reach listed hosts through it.")
def proxy() -> None:
    # Not at the top: no other process needs it.
    from ..proxy.process import policy, run

    settings = load(ProxySettings)
    logging.config.dictConfig(logs.configuration(settings.log_level))
    run(settings, policy(settings), ProxyStore(connect(settings)))


@cli.command(help="Run the part on a node that ends the connections of pods whose tier is gone.")
def connections() -> None:
    # Not at the top: no other process needs it.
    from ..connections.process import run
    from ..connections.table import Table

    settings = load(ConnectionsSettings)
    logging.config.dictConfig(logs.configuration(settings.log_level))
    run(settings, Table())


@cli.command("helm-test", help="Compare what the pods of `helm test` reached with what they should. Run by the chart.")
@click.option("--expected", required=True, help="JSON: role of a pod → target → whether the pod must reach it.")
def helm_test(expected: str) -> None:
    # Not at the top, so that other processes do not load it.
    from ..gatecheck.check import Namespace
    from ..gatecheck.helm_test import results, seen_by_proxy, table, verdicts
    from ..model.labels import GATECHECK_LABEL

    pods = Namespace(load(ReconcilerSettings).namespace).pods(f"{GATECHECK_LABEL}=test")
    wanted = json.loads(expected)
    rows, shut = verdicts(results(pods), wanted)
    by_proxy, seen = seen_by_proxy(pods, wanted)
    click.echo(table(rows + by_proxy))
    passed = shut and seen
    click.echo("The gate is as it should be." if passed else "The gate is not as it should be: docs/gatecheck.md says what to do.")
    sys.exit(0 if passed else 1)


def main() -> None:
    """Run the command; a wrong setting ends it with one sentence and exit code 2."""
    try:
        cli()
    except (InvalidSettings, AssetsMissing) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
