"""Thousands of banned addresses: none is reachable, all others are, and objects stay small enough for the tools that store them."""

import base64
import gzip
import ipaddress
import json
import random

from tests.support.charts import CHART, VALUES, objects

LIMIT = 2500
"""Exceptions of one CIDR."""

APPLIED = 262_144
"""The most bytes in all annotations of an object together. Argo CD and `kubectl apply` store the whole object in one, unless they
apply on the server's side, as docs/policies.md advises for ConfigMaps with this many addresses."""

STORED = 1_048_576
"""The most bytes in a Secret or ConfigMap. Helm stores a release in a Secret: everything rendered and the values, as gzipped JSON
in base64."""

HALVES = {"0.0.0.0/0": False, "0.0.0.0/1": True, "128.0.0.0/1": True}
"""`cidrs` of a tier with twice the limit for IPv4, as docs/policies.md advises."""


def addresses(count, first=0x01000000, last=0xDF000000):
    """Random IPv4 addresses, always the same ones."""
    chosen = random.Random(7)
    found = set()
    while len(found) < count:
        found.add(str(ipaddress.ip_address(chosen.randrange(first, last))))
    return sorted(found)


def rendered(helm, path, values, check=True):
    """Helm's rendering of values: the text and the objects; or, without `check`, the result of the command."""
    path.write_text(json.dumps(values))
    text = helm("template", "r", CHART, "--namespace", "binder", "--values", path, check=check)
    return (text, objects(text)) if check else text


def blocks(documents, tier):
    """The ipBlocks of all policies of a tier, or of one of our components, as (network, its exceptions)."""
    found = []
    for document in documents:
        spec = document["spec"] if document["kind"] == "NetworkPolicy" else {}
        labels = spec.get("podSelector", {}).get("matchLabels", {})
        if tier in (labels.get("binder-egress/tier"), labels.get("app.kubernetes.io/component")):
            for rule in spec["egress"]:
                for block in [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]:
                    network = ipaddress.ip_network(block["cidr"], strict=False)
                    except_ = [ipaddress.ip_network(cidr, strict=False) for cidr in block.get("except", [])]
                    assert all(inner.subnet_of(network) and inner != network for inner in except_), "the API server refuses that"
                    found.append((network, except_))
    return found


def reachable(found, address):
    address = ipaddress.ip_address(address)
    inside = [except_ for network, except_ in found if address.version == network.version and address in network]
    return any(not any(address in cidr for cidr in except_) for except_ in inside)


def refuses_exactly(found, four, six):
    """Assert that no banned address of these is reachable, and that their neighbours are."""
    excepted = [(network, set(except_)) for network, except_ in found]
    for cidr in four + six:
        banned = ipaddress.ip_network(cidr, strict=False)
        around = [except_ for network, except_ in excepted if network.version == banned.version and banned.subnet_of(network)]
        assert len(around) < 2 and all(banned in except_ for except_ in around), cidr
    banned = {ipaddress.ip_address(cidr) for cidr in four if "/" not in cidr}
    wide = [ipaddress.ip_network(cidr) for cidr in four if "/" in cidr]
    private = [ipaddress.ip_network(cidr) for cidr in VALUES["except"]]
    near = [address + 1 for address in sorted(banned)[::100]] + [ipaddress.ip_address(n * 2**27 + 77) for n in range(1, 28)]
    for address in near:
        away = address in banned or any(address in cidr for cidr in wide + private if cidr.version == 4)
        assert reachable(found, address) is not away, address


def are_kept(text, documents, values):
    """Assert that each object, and the release, is small enough for the tools that store them."""
    for document in documents:
        limit = STORED if document["kind"] == "ConfigMap" else APPLIED
        assert len(json.dumps(document)) < limit, document["metadata"]["name"]
    release = json.dumps({"manifest": text, "config": values, "chart": (CHART / "values.yaml").read_text()})
    assert len(base64.b64encode(gzip.compress(release.encode()))) < STORED / 2


def test_five_thousand_addresses_in_the_halves_of_a_cidr(helm, tmp_path):
    """Values as the refusal of more than 2,500 exceptions advises. The policy of the proxy, which has no values, has all, too."""
    four = addresses(2400, last=0x7F000000) + addresses(2000, first=0x80000000)
    chosen = random.Random(7)
    four += sorted({f"{ipaddress.ip_address(chosen.randrange(0x80000000, 0xDF000000) & ~0xFF)}/24" for _ in range(400)})
    six = sorted(
        {f"{ipaddress.ip_address(chosen.randrange(0x20, 0x30) << 120 | chosen.getrandbits(40) << 80)}/48" for _ in range(300)}
    )
    values = {
        "bannedAddresses": {"scanners": four[::2], "miners": four[1::2], "six": six, "gone": False},
        "tiers": {"verified": {"cidrs": HALVES}, "small": {"cidrs": HALVES, "ports": {"tcp": {"443": True}}}},
        "secret": {"existingSecret": "mine"},
    }
    text, documents = rendered(helm, tmp_path / "values.json", {**values, "proxy": {"enabled": True}})
    assert [str(network) for network, _ in blocks(documents, "verified")] == ["0.0.0.0/1", "128.0.0.0/1", "2000::/3"]
    for who in ("verified", "small", "proxy"):
        refuses_exactly(blocks(documents, who), four, [] if who == "small" else six)
    are_kept(text, documents, values)


def test_limit_is_2500_exceptions_of_one_cidr(helm, tmp_path):
    """Addresses in `except` count too, and each address counts once."""
    excepted = sum(":" not in cidr for cidr in VALUES["except"])
    four = addresses(LIMIT - excepted)
    values = {"bannedAddresses": {"a": four, "b": four[:100]}}
    _, documents = rendered(helm, tmp_path / "values.json", values)
    ((_, except_),) = [block for block in blocks(documents, "verified") if block[0].version == 4]
    assert len(except_) == LIMIT
    values["bannedAddresses"]["c"] = ["9.9.9.9"]
    refused = rendered(helm, tmp_path / "values.json", values, check=False)
    assert refused.returncode != 0
    assert "tiers.verified.cidrs: 0.0.0.0/0 has 2501 exceptions from except and bannedAddresses" in refused.stderr
    assert "such as 0.0.0.0/1 and 128.0.0.0/1 for 0.0.0.0/0." in refused.stderr


def test_builds_have_the_same_limit(helm, tmp_path):
    values = {"mode": "deny", "builds": {"enabled": True}, "bannedAddresses": {"a": addresses(LIMIT + 1)}}
    assert "builds.cidrs: 0.0.0.0/0 has" in rendered(helm, tmp_path / "values.json", values, check=False).stderr


def test_reconciler_expects_what_is_rendered(helm, tmp_path):
    _, documents = rendered(helm, tmp_path / "values.json", {"bannedAddresses": {"all": addresses(2000)}})
    (expected,) = [document["data"] for document in documents if document["metadata"]["name"] == "binder-egress-policies"]
    there = {
        document["metadata"]["name"]: document["spec"]
        for document in documents
        if document["kind"] == "NetworkPolicy" and document["metadata"]["labels"]["app.kubernetes.io/component"] == "user-pods"
    }
    assert json.loads(expected["policies.json"]) == there
    assert set(there) == {"binder-egress-base", "binder-egress-label-delay", "binder-egress-tier-verified"}


def test_ban_wins_over_cidrs_inside_it(helm, tmp_path):
    cidrs = {"0.0.0.0/0": False, "203.0.113.0/25": True, "203.0.112.0/22": True, "2001:db8:7::/48": True, "198.51.100.7/32": True}
    values = {
        "bannedAddresses": {"wide": ["203.0.113.0/24", "2001:db8::/32"], "same": ["198.51.100.7"]},
        "tiers": {"verified": {"cidrs": cidrs}},
    }
    _, documents = rendered(helm, tmp_path / "values.json", values)
    found = blocks(documents, "verified")
    assert [str(network) for network, _ in found] == ["2000::/3", "203.0.112.0/22"]
    assert not reachable(found, "203.0.113.5") and reachable(found, "203.0.112.5")
    assert not reachable(found, "2001:db8:7::1") and reachable(found, "2001:db7::1")


NARROW = [
    # CIDR of a tier, banned, what is left of the CIDR: nothing, or its exceptions.
    ("2001:db8:7::/48", "2001:db8:7:1::/64", ["2001:db8:7:1::/64"]),
    ("2001:db8:7::/48", "2001:db8:7::/48", None),
    ("2001:db8:7:1::/64", "2001:db8:7::/48", None),
    ("2001:db8:7::/48", "2001:db8:8::/48", []),
    ("2001:db8:7::/48", "2001:db9::/32", []),
    ("2001:db8:7::/48", "2001:db8:7::1", ["2001:db8:7::1/128"]),
    ("2001:db8::/32", "2001:db8:7::/48", ["2001:db8:7::/48"]),
    ("2001:db8::/32", "::/0", None),
    ("203.0.113.0/24", "203.0.113.255", ["203.0.113.255/32"]),
    ("203.0.113.0/24", "203.0.114.0", []),
    ("203.0.113.0/24", "203.0.112.0/23", None),
    ("203.0.113.0/24", "0.0.0.0/0", None),
    ("203.0.113.7/32", "203.0.113.6/32", []),
    # Bits behind the prefix, and other spellings of IPv6.
    ("198.51.100.7/24", "198.51.100.3", ["198.51.100.3/32"]),
    ("198.51.100.7/24", "198.51.101.3", []),
    ("198.51.100.7/24", "198.51.100.0/24", None),
    ("198.51.100.0/24", "198.51.100.7/24", None),
    ("198.51.100.0/24", "198.51.100.7/25", ["198.51.100.0/25"]),
    ("198.51.100.9/32", "198.51.100.7/24", None),
    ("2001:db8:7::1/30", "2001:db8::/32", ["2001:db8::/32"]),
    ("2001:DB8:2::/48", "2001:db8:2::/48", None),
    ("2001:db8:1::/48", "2001:db8:1:0::/48", None),
    ("2001:db8:1::/48", "2001:0db8:0001::9/48", None),
    ("2001:db8:1::5/48", "2001:DB8:1:2::/64", ["2001:db8:1:2::/64"]),
]


def test_narrow_cidrs_have_exceptions_to_the_bit(helm, tmp_path):
    for cidr, banned, left in NARROW:
        cidrs = {"0.0.0.0/0": False, "2000::/3": False, cidr: True}
        values = {"bannedAddresses": {"a": [banned]}, "tiers": {"verified": {"cidrs": cidrs}}}
        found = blocks(rendered(helm, tmp_path / "values.json", values)[1], "verified")
        assert ([[str(one) for one in except_] for _, except_ in found] or [None]) == [left], (cidr, banned)


def test_tier_has_only_dns_when_everything_is_banned(helm, tmp_path):
    _, documents = rendered(helm, tmp_path / "values.json", {"bannedAddresses": {"all": ["0.0.0.0/0", "::/0"]}})
    assert blocks(documents, "verified") == []
    (policy,) = [each for each in documents if each["metadata"]["name"] == "binder-egress-tier-verified"]
    assert len(policy["spec"]["egress"]) == 1, "only DNS"


def test_policies_that_no_configmap_can_hold_are_refused(helm, tmp_path):
    many = [{"ipBlock": {"cidr": f"11.{a}.{b}.0/24"}} for a in range(130) for b in range(256)]
    refused = rendered(helm, tmp_path / "values.json", {"base": {"egress": {"many": {"to": many}}}}, check=False)
    assert refused.returncode != 0 and "put fewer addresses into bannedAddresses" in refused.stderr


def test_tiers_of_the_proxy_that_no_configmap_can_hold_are_refused(helm, tmp_path):
    many = {f"2001:db8:1111:2222:3333:4444:5555:{number:04x}/128": True for number in range(23_000)}
    closed = {"cidrs": {"0.0.0.0/0": False, "2000::/3": False}, "except": many}
    values = {"proxy": {"enabled": True}, "tiers": {"verified": closed}}
    refused = rendered(helm, tmp_path / "values.json", values, check=False)
    assert refused.returncode != 0 and "through the egress proxy is 10" in refused.stderr
