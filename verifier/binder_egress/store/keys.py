"""The keys in Redis: what the processes keep there, and for how long.

| key | holds | kept |
|---|---|---|
| `epoch` | when this Redis was first used; older passes and challenges are rejected | for ever |
| `solution:<provider>:<id>` | a solution that was used | until its challenge has expired |
| `solution:key:<word>` | a request for a pass with an API key, which counts once even if it comes twice | `LEEWAY_SECONDS` |
| `charges:<network>` | a hash: the passes that a network got, by time | `fairness.window` after the last, and a twelfth of that |
| `charges:key:<id>` | a hash: the passes of an API key, by time | a day after the last, and two hours |
| `rejected:<network>` | the number of rejected solutions of a client network | `REJECTIONS_WINDOW_SECONDS` after the first |
| `revoked` | a hash: API keys that operators revoked, by id | for ever |
| `pass:<id>` | the uses of a pass: which server holds each | until nobody can present the pass |
| `promise:<promise>:<network>` | a hash: the server launched with it, its pass | `PROMISE_TTL_SECONDS`, `ANNOUNCED_TTL_SECONDS` |
| `keeps:<pass>` | the promise that a pass keeps: one pass keeps one | until nobody can present the pass |
| `launch:<server>` | the latest decision about a launch, with or without egress | the launch timeout, or until the pod is ready |
| `unlock:<server>` | a grant for a running pod | `UNLOCK_TTL_SECONDS` |
| `stop:<server>` | the uid of a pod that must be stopped | until it is deleted, or `STOP_TTL_SECONDS` |
| `blocks` | a hash: the operators' blocks, by id | until removed or ended; a server's block as long as its pod, a week at most |
| `lifted:<block>` | a block that an operator removed, which pods may carry | `WITHDRAWN_TTL_SECONDS` |
| `withdrawn:<grant>` | a grant that no longer counts (D-005) | `WITHDRAWN_TTL_SECONDS` |
| `restored` | how much the reconciler entered into a Redis that was new or lost; nothing is granted without it | for ever |
| `wake` | a list: servers to reconcile, nodes to measure on | until read |
| `commands` | a list: the same, to be done first, for the command `egress` | until read |
| `actions` | a list: actions of the command `egress`, for the reconciler's log | until read |
| `detections` | a stream: detectors' reports, `MAX_REPORTS` at most | until read, or `REPORT_TTL_SECONDS` after the last |
| `detected` | a stream: the outcomes of the last `KEPT_DETECTIONS` of them | `DETECTED_TTL_SECONDS` after the last |
| `lines` | a hash: the number of lines that detectors sent, by source and outcome | for ever |
| `unreadable` | the last lines of each source that the receiver could not read | `DETECTED_TTL_SECONDS` after the last |
| `agents` | a hash: the addresses of agents, and the nodes that they are on | `AGENTS_TTL_SECONDS` |
| `addresses` | a hash: the addresses of each server's pods, for the egress proxy; a channel has its changes | with the pod |
| `changes` | the number of changes to `addresses`, and when counting began | for ever |
| `scans` | a list: pods that try more hosts than the egress proxy allows | until read, or `REPORT_TTL_SECONDS` |
| `wanted:<proxy>` | the hosts that servers asked one pod of the egress proxy for and did not get | `WANTED_TTL_SECONDS` |
| `uses` | a stream: what agents say of pods' use of the network, `MAX_USES` at most | until read, or `USES_TTL_SECONDS` |
| `report` | a stream: launches that are over, `MAX_LAUNCHES` at most, and whether each used the network | `agent.report.days` |
| `server:<server>` | what the reconciler knows of a server | as long as the pod exists |
| `reconciler` | the time of the reconciler's last heartbeat | `HEARTBEAT_TTL_SECONDS` |
| `hub` | JupyterHub's address, as BinderHub's hook last announced it | for ever |
| `wiring` | a hash: numbers of launches announced, and without context; times of first and last; pods before the first | for ever |
| `verifiers` | a hash: each verifier's report, by host: providers, API keys, clock | `VERIFIER_TTL_SECONDS` after the last |
| `gatecheck` | the reconciler's findings about policies and the canary | `GATECHECK_TTL_SECONDS` |
| `labels` | a hash: how each node's network plugin acts on labels, by node | with its canary, or until the reconciler starts |
| `counters` | a hash: the reconciler's counters, for the verifier's metrics | for ever |
| `tiers` | a hash: the number of pods by tier, for the same | until the next heartbeat |

All keys begin with `binder-egress:`. With the chart's Redis, each process writes what `chart/files/redis-users.sh` allows (D-241).
A lifetime is a constant of the file whose operations set it, or of this file if several do.
Scripts do not declare keys that the verifier may only read or only write: Redis requires both rights on declared keys.

Redis may be lost at any moment. Then passes become invalid, waiting grants are lost, and client networks are charged from zero.
Running servers keep what their annotation says, including a block. Blocks of repositories and networks, and revoked API keys, are
restored from a ConfigMap (`saved.py`).
"""

PREFIX = "binder-egress:"

VERIFIER_TYPES = {"wiring": "hash", "hub": "string", "verifiers": "hash"}
RECONCILER_TYPES = {
    "blocks": "hash", "revoked": "hash", "wake": "list", "commands": "list", "actions": "list", "reconciler": "string",
    "counters": "hash", "gatecheck": "string", "addresses": "hash", "changes": "string", "detections": "stream",
    "detected": "stream", "lines": "hash", "scans": "list", "labels": "hash", "uses": "stream",
    "report": "stream",
}  # fmt: skip
"""The types of the keys that the process may write, and that somebody reads whose work would end with an error if they had another
type. It removes those that do (D-415). Keys that are only replaced are not here, and neither are keys of one server or client."""

EVERYTHING = "*"
"""On the lists `wake` and `commands`: reconcile all servers. It cannot be a server: `Server.key` has a slash."""

NODE = "node:"
"""On the same lists, what the name of a node follows: measure there at once. It has no slash either."""

MAX_SERVER_BYTES = 2 * 255 * 12 + 1
"""The longest `Server.key`: a name in JupyterHub has 255 characters at most, and a character takes 12 bytes at most, as in
`%F0%9F%98%80`."""

MAX_TEXT_BYTES = 256 * 1024
"""The longest text of most kinds. What Redis has of a server and its grant has at most 180 KB as JSON: two texts of
`MAX_TEXT_CHARACTERS`, three of `MAX_FIELD_CHARACTERS`, and words, with 12 bytes for each character."""

MAX_BYTES = {
    "wake": MAX_SERVER_BYTES, "scans": 64, "uses": 2048, "detections": 16 * 1024, "verifiers": 1 << 20, "wanted": 2 << 20,
}  # fmt: skip
"""The longest text of each other kind, in bytes. A longer one is not read (D-517)."""

MAX_ANSWER_BYTES = 4 * MAX_TEXT_BYTES
"""The most that is read at once, if it is more than one text: what Redis has of one server fits."""

MAX_BLOCKS_BYTES = 4 << 20
"""The most that all blocks may have, some 15,000 of them. With more, no process grants anything (D-517)."""

WITHDRAWN_TTL_SECONDS = 7 * 86400
"""Seconds that a withdrawal is remembered: far longer than the culler lets a pod live (6 h on mybinder.org)."""


def redis_key(name: str) -> str:
    """A key of the table, as Redis has it."""
    return PREFIX + name


def max_bytes(name: str) -> int:
    """The longest text that a key of the table can have, or an entry or a field of it."""
    return MAX_BYTES.get(name.partition(":")[0], MAX_TEXT_BYTES)
