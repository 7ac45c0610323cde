"""Where JupyterHub is, as browsers see it: the value `hubUrl`, or else the address that BinderHub's hook sends with each launch
(D-370)."""

from urllib.parse import quote

from ..model.origins import origin_of
from ..model.records import Server
from ..settings import is_page_address
from ..store.errors import StoreUnavailable
from .context import services


def url() -> str:
    """JupyterHub's address, ending in `/`; empty: not known."""
    found = services().settings.hub_url or _said()
    return found and found.rstrip("/") + "/"


def origin() -> str:
    """The origin of JupyterHub's pages, as browsers write it; empty: not known."""
    found = url()
    return found and origin_of(found)


def server_url(server: Server) -> str:
    """The address of a running server; empty: JupyterHub's address is not known."""
    name = f"{quote(server.name, safe='')}/" if server.name else ""
    found = url()
    return found and f"{found}user/{quote(server.user, safe='')}/{name}"


def _said() -> str:
    try:
        found = services().store.hub()
    except StoreUnavailable:
        return ""
    return found if is_page_address(found) else ""  # An intruder in another verifier may have written anything.
