"""The launches that BinderHub's hook announces: they are counted, and bring JupyterHub's address."""

from dataclasses import dataclass
from typing import Any

from .base import Operations, as_text, unavailable
from .keys import redis_key


@dataclass(frozen=True)
class Announced:
    """A launch that BinderHub's hook announced, for `Store` to count with its decision, for all replicas together.

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

    def for_script(self) -> dict[str, Any]:
        """What `changed_blocks` and `count` in `common.lua` expect."""
        return {
            "blocks": redis_key("blocks"),
            "judged_by": self.judged_by,
            "wiring": redis_key("wiring"),
            "hub": redis_key("hub"),
            "now": int(self.at),
            "without_context": 0 if self.context else 1,
            "hub_url": self.hub_url,
        }


class Announcements(Operations):
    """What announced launches leave in Redis. Their numbers are part of `Store.health`."""

    def hub(self) -> str:
        """JupyterHub's address, as BinderHub's hook last announced it; empty: no launch has been announced yet."""
        with unavailable():
            return as_text(self._redis.get(redis_key("hub"))) or ""
