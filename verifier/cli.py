"""The command `binder-egress`: starts one of the two processes."""

import logging.config
import signal
import sys

import click
from gunicorn.app.base import BaseApplication

from . import __version__, logs
from .app import create_app
from .settings import InvalidSettings, ReconcilerSettings, VerifierSettings, load
from .store import Store, connect


class _Gunicorn(BaseApplication):
    """Gunicorn with one worker: metrics and state stay simple, and the work is I/O and microseconds of HMAC."""

    def __init__(self, settings: VerifierSettings, app: object):
        self._settings = settings
        self._app = app
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": [f"[::]:{port}" for port in (self._settings.public_port, self._settings.internal_port)],
            "worker_class": "gthread",
            "threads": self._settings.threads,
            "worker_tmp_dir": "/tmp",
            "control_socket_disable": True,
            "keepalive": 75,
            "graceful_timeout": 10,
            "logconfig_dict": logs.configuration(self._settings.log_level),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> object:
        return self._app


@click.group(help="Captcha-gated network egress for BinderHub user pods. Settings come from environment variables.")
@click.version_option(__version__)
def cli() -> None:
    pass


@cli.command(help="Run the verifier: it checks solutions, issues passes and decides launches.")
def verifier() -> None:
    settings = load(VerifierSettings)
    _Gunicorn(settings, create_app(settings)).run()


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
    except InvalidSettings as error:
        click.echo(str(error), err=True)
        sys.exit(2)
