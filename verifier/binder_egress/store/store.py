"""The store of each process: the operations that its user in the chart's Redis may do (`chart/files/redis-users.sh`, D-465)."""

from .addresses import ProxyAddresses, ReconcilerAddresses
from .announcements import Announcements, HubAddress
from .blocks import Blocks, ReconcilerBlocks
from .detections import Detections, ProxyReports, ReceiverReports, ReconcilerReports
from .health import Health, ReconcilerHealth
from .issuing import Charges, Issuing
from .pending import PendingDecisions, ReconcilerPendingDecisions
from .promised_launches import Promises
from .reconciler import ReconcilerState, ReconcilerWork
from .redeeming import Redeeming
from .revoked_keys import RevokedKeys
from .saved import ReconcilerSaved
from .servers import ReconcilerServers, Servers
from .uses import ReceiverUses, ReconcilerUses
from .verifiers import VerifierReadiness, Verifiers
from .wanted_hosts import ProxyWantedHosts, ReconcilerWantedHosts


class SharedStore(Charges, PendingDecisions, Blocks, Servers, Health, RevokedKeys, Detections, ReconcilerState, Verifiers):
    """What the verifier and the reconciler both may do. Every method of a store raises `StoreUnavailable` if Redis fails.

    Each subject has a file. A class whose name begins with a process has what only that process may do.

    | subject | file | scripts in `lua/` |
    |---|---|---|
    | what a pass costs a client: used solutions, charges, rejections | `issuing.py` | `use_and_charge`, `read_charges`, `reject` |
    | the uses of a pass | `redeeming.py` | `redeem` |
    | promises, and the passes that keep them | `promised_launches.py` | `keep` |
    | launches that BinderHub's hook announces, and JupyterHub's address | `announcements.py` | `record_launch` |
    | what waits for a pod: launches, unlocks, stops; withdrawn grants | `pending.py` | `settle`, `forget_stop` |
    | the operators' blocks | `blocks.py` | `add_block` |
    | API keys that operators revoked | `revoked_keys.py` | |
    | what outlives Redis | `saved.py` | `restore` |
    | what the reconciler publishes about servers | `servers.py` | |
    | addresses of pods, for the egress proxy | `addresses.py` | `publish_addresses` |
    | hosts that servers asked the egress proxy for and did not get | `wanted_hosts.py` | |
    | what agents say of pods' use of the network, and the launches that are over | `uses.py` | `read_rows` |
    | detectors' reports and lines, and the agents | `detections.py` | `read_rows`, `take` |
    | the reconciler: waking it, its log, its heartbeat and counters | `reconciler.py` | `take`, `count` |
    | the verifiers' readiness, and reports about themselves | `verifiers.py` | `begin`, the first use of Redis |
    | the gate check's findings, and what `doctor` checks of Redis | `health.py` | |

    The parts are bases and not members: what follows from one step is in one pipeline, or one script, over keys of several
    subjects, and each process' operations are one list, which the rights of its user in Redis are compared with.

    `keys.py` lists the keys, and `base.py` has what all subjects share: `read`, `read_hash` and `scan`, too. What a script must do
    at once, such as reading and changing a pass' uses, is in Lua, because Redis runs a script without anything in between.

    Args:
        client: a connection with `decode_responses`.
    """


class VerifierStore(Issuing, Redeeming, Promises, Announcements, VerifierReadiness, SharedStore):
    """What the verifier may do."""


class ReconcilerStore(
    ReconcilerPendingDecisions,
    ReconcilerBlocks,
    ReconcilerServers,
    ReconcilerAddresses,
    ReconcilerHealth,
    ReconcilerReports,
    ReconcilerSaved,
    ReconcilerUses,
    ReconcilerWantedHosts,
    ReconcilerWork,
    SharedStore,
):
    """What the reconciler may do, and operators' commands, which run in its pod."""


class ReceiverStore(ReceiverReports, ReceiverUses):
    """What the receiver of detectors' reports may do."""


class ProxyStore(ProxyAddresses, ProxyReports, ProxyWantedHosts, HubAddress):
    """What the egress proxy may do."""
