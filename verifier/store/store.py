"""The store: every operation on Redis, of all processes."""

from .addresses import Addresses
from .announcements import Announcements
from .blocks import Blocks
from .decisions import Decisions
from .detections import Detections
from .health import Health
from .issuing import Issuing
from .promises import Promises
from .reconciler import ReconcilerState
from .redeeming import Redeeming
from .revoked_keys import RevokedKeys
from .servers import Servers
from .verifiers import Verifiers
from .wanted_hosts import WantedHosts


class Store(
    Issuing,
    Redeeming,
    Promises,
    Announcements,
    Decisions,
    Blocks,
    Health,
    RevokedKeys,
    Servers,
    Addresses,
    WantedHosts,
    Detections,
    ReconcilerState,
    Verifiers,
):
    """All operations on Redis. Every method raises `StoreUnavailable` if Redis fails.

    Each subject has a file, and a class there:

    | subject | file | scripts in `lua/` |
    |---|---|---|
    | what a pass costs a client: used solutions, charges, rejections | `issuing.py` | `use_and_charge`, `read_charges`, `reject` |
    | the uses of a pass | `redeeming.py` | `redeem` |
    | promises, and the passes that keep them | `promises.py` | `keep` |
    | launches that BinderHub's hook announces, and JupyterHub's address | `announcements.py` | |
    | what waits for a pod: launches, unlocks, stops; withdrawn grants | `decisions.py` | `record_launch`, `settle`, `forget_stop` |
    | the operators' blocks | `blocks.py` | |
    | API keys that operators revoked | `revoked_keys.py` | |
    | what the reconciler publishes about servers | `servers.py` | |
    | addresses of pods, for the egress proxy | `addresses.py` | `publish_addresses` |
    | hosts that servers asked the egress proxy for and did not get | `wanted_hosts.py` | |
    | detectors' reports and lines, and the agents | `detections.py` | |
    | the reconciler: waking it, its log, its heartbeat and counters | `reconciler.py` | `begin`, the first use of Redis; `count` |
    | the verifiers' reports about themselves | `verifiers.py` | |
    | the gate check's findings, and what `doctor` checks of Redis | `health.py` | |

    `keys.py` lists the keys, and `base.py` has what all subjects share, `ping` among it. What a script must do at once, such as
    reading and changing a pass' uses, is in Lua, because Redis runs a script without anything in between.

    Args:
        client: a connection with `decode_responses`.
    """
