"""The command `binder-egress`: starts one of the two processes."""

import logging.config
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import click
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import TConn, ThreadWorker

from . import __version__, logs
from .app import create_app
from .settings import InvalidSettings, ReconcilerSettings, VerifierSettings, load
from .store import Store, connect


class _Threads(ThreadPoolExecutor):
    """Threads for requests, and as many again for the in-cluster port: slow strangers cannot hold up launches and probes.

    Args:
        threads: how many, for each port.
        internal_port: the in-cluster port.
    """

    def __init__(self, threads: int, internal_port: int):
        super().__init__(threads)
        self._internal_port = internal_port
        self._internal = ThreadPoolExecutor(threads)

    def submit(self, handle: Callable[[TConn], Any], conn: TConn) -> Future[Any]:  # type: ignore[override]
        if conn.server[1] == self._internal_port:
            return self._internal.submit(handle, conn)
        return super().submit(handle, conn)

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        self._internal.shutdown(*args, **kwargs)
        super().shutdown(*args, **kwargs)


class _Worker(ThreadWorker):
    def get_thread_pool(self) -> _Threads:
        return _Threads(self.cfg.threads, self.app.settings.internal_port)


class _Gunicorn(BaseApplication):
    """Gunicorn with one worker: metrics and state stay simple, and the work is I/O and microseconds of HMAC."""

    def __init__(self, settings: VerifierSettings, app: object):
        self.settings = settings
        self._app = app
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": [f"[::]:{port}" for port in (self.settings.public_port, self.settings.internal_port)],
            "worker_class": _Worker,
            "threads": self.settings.threads,
            "worker_tmp_dir": "/tmp",
            "control_socket_disable": True,
            "keepalive": 75,
            "graceful_timeout": 10,
            "logconfig_dict": logs.configuration(self.settings.log_level),
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
