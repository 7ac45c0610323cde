"""Which addresses and ports the policies of a tier open: the chart's own NetworkPolicies for user pods."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from ..model.grants import UNVERIFIED
from ..model.labels import TIER_LABEL
from ..model.networks import IPAddress, IPNetwork, NetworkSet

NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""The protocols that a policy can name, by their number in an IP header."""


class Rule:
    """An egress rule, as far as it is about addresses. Its peers by label are pods, whose addresses are private.

    Args:
        rule: the rule, as in a NetworkPolicy.
    """

    def __init__(self, rule: Mapping[str, Any]):
        blocks = [peer["ipBlock"] for peer in rule.get("to") or [] if "ipBlock" in peer]
        self._everywhere = not rule.get("to")
        self._blocks = [(_set([block["cidr"]]), _set(block.get("except") or [])) for block in blocks]
        self._ports = [
            (NUMBERS[port.get("protocol", "TCP")], first, port.get("endPort", first))
            for port in rule.get("ports") or []
            # A port with a name is one of a pod.
            if not isinstance(first := port.get("port"), str)
        ]
        self._every_port = not rule.get("ports")

    def opens(self, destination: IPAddress, protocol: int, port: int | None) -> bool:
        """Whether it opens a destination, by the number of a protocol and, if that has ports, a port."""
        if not self._everywhere and not any(destination in inside and destination not in out for inside, out in self._blocks):
            return False
        return self._every_port or any(
            protocol == number and (first is None or (port is not None and first <= port <= last))
            for number, first, last in self._ports
        )


class Opened:
    """What each tier opens.

    Args:
        policies: the `spec` of each of our NetworkPolicies for user pods, by name, as the chart renders it. One without a tier in
            its selector is for all.
        private: the networks that are private.
    """

    def __init__(self, policies: Mapping[str, Mapping[str, Any]], private: Iterable[IPNetwork]):
        self._private = NetworkSet(private)
        self._tiers: dict[str, list[Rule]] = {}
        for spec in policies.values():
            tier = spec["podSelector"].get("matchLabels", {}).get(TIER_LABEL, "")
            self._tiers.setdefault(tier, []).extend(map(Rule, spec.get("egress") or []))

    def closes(self, tier: str, destination: str, protocol: int, port: int | None) -> bool:
        """Whether a destination is public, and neither the tier's policy nor the one for all pods opens it.

        Args:
            tier: the tier; `unverified` for none.
            destination: an address.
            protocol: the number of the protocol, as in an IP header.
            port: the port; None if the protocol has none.
        """
        address = ipaddress.ip_address(destination)
        if address in self._private:
            return False
        rules = [*self._tiers.get("", []), *(self._tiers.get(tier, []) if tier != UNVERIFIED else [])]
        return not any(rule.opens(address, protocol, port) for rule in rules)


def _set(cidrs: Iterable[str]) -> NetworkSet:
    return NetworkSet(ipaddress.ip_network(cidr, strict=False) for cidr in cidrs)
