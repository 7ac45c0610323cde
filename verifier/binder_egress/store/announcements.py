"""The launches that BinderHub's hook announces: they are counted, and bring JupyterHub's address."""

import json
from dataclasses import dataclass

from ..model.records import Record, Server
from ..model.repositories import MAX_URL_CHARACTERS
from ..model.serialization import write_record
from .base import Operations, as_text, unavailable
from .blocks import Blocks
from .errors import PromiseKept
from .keys import redis_key
from .promised_launches import promise_for_script


@dataclass(frozen=True)
class Announced:
    """A launch that BinderHub's hook announced, for Redis to count with its decision, for all replicas together.

    Attributes:
        at: Unix time in seconds.
        context: whether the hook knew the launch request.
        judged_by: `SeenBlocks.version` of the blocks by which it was decided.
        hub_url: JupyterHub's address, to be remembered; empty: the previous one stays.
    """

    at: float
    context: bool
    judged_by: str
    hub_url: str = ""

    def for_script(self, server: Server, record: Record) -> dict[str, object]:
        """What `changed_since` and `count` in `common.lua` expect of the launch of a server, and of its decision."""
        return {**vars(self), "at": int(self.at), "server": server.key, "is_late": record.launched_at is not None}


class HubAddress(Operations):
    """JupyterHub's address."""

    def hub(self) -> str:
        """JupyterHub's address, as BinderHub's hook last announced it; empty: no launch has been announced yet."""
        with unavailable():
            # The egress proxy reads it too, and may run no script.
            url = as_text(self._redis.getrange(redis_key("hub"), 0, 4 * MAX_URL_CHARACTERS)) or ""
        return url if len(url) <= MAX_URL_CHARACTERS else ""


class Announcements(HubAddress, Blocks):
    """Writes down announced launches. Their numbers are part of `health`."""

    def record_launch(
        self, server: Server, record: Record, ttl: int, announced: Announced, *, network: str = "", unkept: bool = False
    ) -> None:
        """Write down a launch that uses no pass, and count it. It replaces every earlier decision about this server.

        Args:
            server: the server that is about to start.
            record: the decision. If a promise came with the launch, it is remembered that this server was announced with it.
            ttl: seconds that the record lives.
            announced: the launch, as BinderHub's hook announced it.
            network: the client's network.
            unkept: whether the launch was decided without a pass because none had kept its promise.

        Raises:
            BlocksChanged: the blocks have changed since the launch was decided. Nothing is written.
            LaunchDecided: it is announced late, and its server has a decision by now. Nothing is written.
            PromiseKept: a pass has kept the promise since. Nothing is written.
        """
        request: dict[str, object] = {
            "record": write_record(record),
            "ttl": ttl,
            "server": server.key,
            "announced": announced.for_script(server, record),
        }
        if record.promise:
            request["promise"] = promise_for_script(record.promise, network) | {"kept": not unkept}
        with unavailable():
            answer = self._run("record_launch", keys=[redis_key(f"launch:{server.key}")], args=[json.dumps(request)])
        if self._unless_changed(answer)[0] == "promise-kept":
            raise PromiseKept
