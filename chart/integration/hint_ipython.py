# binder-egress: after a cell that failed because of the network, says where this server gets internet access.
def _binder_egress():
    import errno
    import os
    import socket
    import sys

    address = os.environ.get("BINDER_EGRESS_URL")

    def of_network(error, depth=0):
        # Libraries wrap the socket's error, each in its own way.
        if not isinstance(error, BaseException) or depth > 8:
            return False
        unreachable = getattr(error, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        if unreachable or isinstance(error, socket.gaierror):
            return True
        inner = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args[:2]]
        return any(of_network(other, depth + 1) for other in inner)

    def hint(result):
        try:
            if of_network(result.error_in_exec):
                text = "This server may have no internet access, or only packages. To see, and to get it, open"
                print(f"{text} {address}#unlock", file=sys.stderr)
        except Exception:
            pass

    if address:
        get_ipython().events.register("post_run_cell", hint)  # type: ignore[name-defined]


try:
    _binder_egress()
except Exception:
    pass
del _binder_egress
