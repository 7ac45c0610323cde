"""What a process of the tests runs: a command of the product, with its modules loaded already."""

import os
import resource
import sys
from collections.abc import Callable

# The modules that the commands load when they run.
import binder_egress.proxy.process
import binder_egress.web.app
import binder_egress.web.gunicorn
import binder_egress.web.receiver  # noqa: F401
from binder_egress.commands.processes import main
from binder_egress.store import connection
from binder_egress.web import servers


def as_it_is() -> None:
    """Prepare nothing."""


def serve(command: str, environment: dict[str, str], unlock_wait_seconds: float, log: str, prepare: Callable[[], None]) -> None:
    """Run a command of the product. It waits longer for Redis than the product's half a second, because CI machines are slow. Its
    soft limit of open files is a container's.

    Args:
        environment: the variables of the process.
        log: the file for its output of errors.
        prepare: called before the command.
    """
    with open(log, "a") as file:
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    connection.TIMEOUT_SECONDS = 10.0
    servers.UNLOCK_WAIT_SECONDS = unlock_wait_seconds
    prepare()
    sys.argv = ["binder-egress", command]
    main()
