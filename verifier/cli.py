"""The command `binder-egress`: starts one of the two processes."""

import logging.config
import signal
import sys

import click

from . import __version__, logs
from .app import create_app, create_services
from .assets import AssetsMissing
from .server import Server
from .settings import InvalidSettings, ReconcilerSettings, VerifierSettings, load
from .store import Store, connect


@click.group(help="Captcha-gated network egress for BinderHub user pods. Settings come from environment variables.")
@click.version_option(__version__)
def cli() -> None:
    pass


@cli.command(help="Run the verifier: it checks solutions, issues passes and decides launches.")
def verifier() -> None:
    settings = load(VerifierSettings)
    services = create_services(settings)
    Server(settings, create_app(services), services.captcha.start).run()


@cli.command(help="Run the reconciler: it labels user pods with the tier that was decided.")
def reconciler() -> None:
    # Not at the top: the verifier neither needs nor should hold the Kubernetes client.
    from .cluster import Cluster
    from .reconciler import Reconciler

    settings = load(ReconcilerSettings)
    logging.config.dictConfig(logs.configuration(settings.log_level))
    worker = Reconciler(settings, Cluster(settings.namespace, settings.user_pod_labels), Store(connect(settings)))
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    signal.signal(signal.SIGINT, lambda *_: worker.stop())
    worker.run()


def main() -> None:
    """Run the command; a wrong setting ends it with one sentence and exit code 2."""
    try:
        cli()
    except (InvalidSettings, AssetsMissing) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
