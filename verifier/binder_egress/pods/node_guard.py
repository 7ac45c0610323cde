"""The node guard: closes IPv6 link-local and multicast between the pods of a node, and from pods to the node (docs/link-local.md).

docs/node-guard.yaml runs it in each node's network namespace. Its image has Python's standard library, `ip` and `nft`.
"""

import json
import signal
import subprocess
from typing import Any

EVERY_SECONDS = 5
"""How often the table is replaced, which restores rules that somebody removed and heeds links that changed."""

AGAIN_SECONDS = 600
"""How often the log repeats on how many links the guard stands."""

TABLE = "ip6 binder-egress-node-guard"


def sort_out(links: list[dict[str, Any]], defaults: list[dict[str, Any]]) -> tuple[set[str], set[str]]:
    """Tell the pods' links from the node's own.

    Args:
        links: what `ip -json -details link` says.
        defaults: the default routes, as `ip -json route` says.

    Returns:
        The names of the links that the guard stands on, and of the veths and bridges that are the node's own: a default route leads
        through them, or they are bridges that join something else than veths, such as a network card.
    """
    kinds = {link["ifname"]: link.get("linkinfo", {}).get("info_kind") for link in links}
    ports = {name: [link for link in links if link.get("master") == name] for name, kind in kinds.items() if kind == "bridge"}
    own = {hop["dev"] for route in defaults for hop in (route, *route.get("nexthops", [])) if "dev" in hop}
    own |= {name for name, joined in ports.items() if any(kinds[port["ifname"]] != "veth" for port in joined)}

    def leads_elsewhere(link: dict[str, Any]) -> bool:
        """Whether it is a veth whose other end is in another network namespace, as a pod's."""
        return kinds[link["ifname"]] == "veth" and "link_netnsid" in link

    pods = {link["ifname"] for link in links if "master" not in link and leads_elsewhere(link)}
    pods |= {name for name, joined in ports.items() if any(map(leads_elsewhere, joined))}
    return pods - own, {name for name in own if kinds.get(name) in ("veth", "bridge")}


def rules(pods: set[str], own: set[str]) -> str:
    """What nft reads, for links as `sort_out` returns them.

    One transaction replaces the table, so there is no moment without it. It takes links by their kind, so that a new pod's link is
    covered from its first packet (D-420). The table is replaced as a whole (D-234).
    """
    return f"""
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
  # For people and the readiness probe; no rule uses it.
  set links-of-pods {{
    type ifname; {f"elements = {{ {_names(pods)} }}" if pods else ""}
  }}
  chain from-pods {{
    type filter hook prerouting priority raw
    # Pods are behind veths. Where a bridge joins these, packets come in through the bridge.
    meta iifkind != {{ "veth", "bridge" }} accept
    iifname {{ {_names({"lo", *own})} }} accept
    # IPv6 does not work without neighbour discovery and, for multicast, listener reports.
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
    icmpv6 type {{ mld-listener-report, mld-listener-done, mld2-listener-report }} accept
    ip6 saddr fe80::/10 drop
    ip6 daddr fe80::/10 drop
    # A packet may have a made-up source address, which no policy knows. The neighbours hear it by multicast.
    ip6 daddr ff00::/8 drop
    # No route leads back to its source through the link.
    fib saddr . iif oif missing drop
  }}
}}
"""


def summary(pods: set[str], own: set[str]) -> str:
    """The line of the log, for links as `sort_out` returns them."""
    guards = f"guards the links of pods: {len(pods)}" if pods else "guards NOTHING, because this node has no link of a pod"
    return f"{guards}; the node's own, which it leaves alone: {', '.join(sorted(own)) or 'none'}"


def main() -> None:
    """Keep the rules in place until SIGTERM, and then remove them. They outlive a failure of this process.

    Raises:
        subprocess.CalledProcessError: `ip` or `nft` failed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    said, rounds = None, 0
    while True:
        defaults = _ip("-4", "route", "show", "default") + _ip("-6", "route", "show", "default")
        pods, own = sort_out(_ip("-details", "link"), defaults)
        subprocess.run(("nft", "-f", "-"), input=rules(pods, own), text=True, check=True)
        if said != (bool(pods), own) or rounds * EVERY_SECONDS >= AGAIN_SECONDS:
            said, rounds = (bool(pods), own), 0
            print(summary(pods, own), flush=True)
        rounds += 1
        if signal.sigtimedwait({signal.SIGTERM}, EVERY_SECONDS):
            break
    subprocess.run(("nft", "delete", "table", *TABLE.split()), check=True)


def _ip(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(("ip", "-json", *arguments), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout or "[]")  # type: ignore[no-any-return]


def _names(links: set[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(links))


if __name__ == "__main__":
    main()
