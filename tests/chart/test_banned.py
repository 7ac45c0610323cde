"""Thousands of banned addresses: none is reachable, everything else is, and objects stay within what stores can hold."""

import base64
import gzip
import ipaddress
import json
import random

import pytest
import yaml
from test_chart import CHART

# The tools are built on first use, which takes minutes.
pytestmark = pytest.mark.timeout(1800)

# Rendering thousands takes a while, and the two versions of Helm have the same template engine.
one_helm = pytest.mark.parametrize("helm", ["helm"], indirect=True)

APPLIED = 262_144
"""Bytes that all annotations of an object may have: what Argo CD, as `kubectl apply`, writes of it into one."""

STORED = 1_048_576
"""Bytes of a Secret or ConfigMap. Helm keeps a release in a Secret: all it rendered and the values, as gzipped JSON in base64."""


@pytest.fixture(scope="module")
def many():
    """4,000 addresses and 1,000 networks all over IPv4, half of them in one corner, and 300 of IPv6."""
    chosen = random.Random(7)
    found = {str(ipaddress.ip_address(chosen.randrange(0x01000000, 0xDF000000))) for _ in range(2000)}
    found |= {str(ipaddress.ip_address(chosen.randrange(0xC6000000, 0xC6110000))) for _ in range(2000)}
    found |= {f"{ipaddress.ip_address(chosen.randrange(0x01000000, 0xDF000000) & ~0xFF)}/24" for _ in range(1000)}
    six = {f"{ipaddress.ip_address(chosen.randrange(0x20, 0x30) << 120 | chosen.getrandbits(64) << 56)}/48" for _ in range(300)}
    assert len(found) > 4900
    return sorted(found), sorted(str(ipaddress.ip_network(cidr, strict=False)) for cidr in six)


def rendered(helm, path, values):
    path.write_text(json.dumps(values))
    text = helm("template", "r", CHART, "--namespace", "binder", "--values", path)
    return text, [document for document in yaml.safe_load_all(text) if document]


def blocks(documents, tier):
    """The ipBlocks of all policies of a tier, as (network, its exceptions)."""
    found = []
    for document in documents:
        spec = document["spec"] if document["kind"] == "NetworkPolicy" else {}
        if spec.get("podSelector", {}).get("matchLabels", {}).get("binder-egress/tier") == tier:
            for rule in spec["egress"]:
                for block in [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]:
                    network = ipaddress.ip_network(block["cidr"])
                    except_ = [ipaddress.ip_network(cidr, strict=False) for cidr in block.get("except", [])]
                    assert all(inner.subnet_of(network) and inner != network for inner in except_), "the API server refuses that"
                    found.append((network, except_))
    return found


def reachable(found, address):
    address = ipaddress.ip_address(address)
    inside = [except_ for network, except_ in found if address.version == network.version and address in network]
    return any(not any(address in cidr for cidr in except_) for except_ in inside)


@one_helm
def test_five_thousand_addresses(helm, many, tmp_path):
    four, six = many
    values = {
        "bannedAddresses": {"scanners": four[::2], "miners": four[1::2], "six": six, "gone": False},
        "tiers": {"small": {"cidrs": {"0.0.0.0/0": True}, "ports": {"tcp": {"443": True}}}},
        "secret": {"existingSecret": "mine"},
    }
    text, documents = rendered(helm, tmp_path / "values.json", values)
    for tier in ("verified", "small"):
        found = blocks(documents, tier)
        excepted = [(network, set(except_)) for network, except_ in found]
        for cidr in four + (six if tier == "verified" else []):
            banned = ipaddress.ip_network(cidr, strict=False)
            around = [except_ for network, except_ in excepted if network.version == banned.version and banned.subnet_of(network)]
            # None around it: it lies in a part that is closed as a whole.
            assert len(around) < 2 and all(banned in except_ for except_ in around), cidr
        # What is next to a banned address is not banned with it, and no part got lost in between.
        banned = {ipaddress.ip_address(cidr) for cidr in four if "/" not in cidr}
        wide = [ipaddress.ip_network(cidr) for cidr in four if "/" in cidr]
        private = [ipaddress.ip_network(cidr) for cidr in yaml.safe_load((CHART / "values.yaml").read_text())["except"]]
        near = [address + 1 for address in sorted(banned)[::200]] + [ipaddress.ip_address(n * 2**27 + 77) for n in range(1, 28)]
        for address in near:
            away = address in banned or any(address in cidr for cidr in wide + private if cidr.version == 4)
            assert reachable(found, address) is not away, address
        for network, except_ in found:
            assert len(except_) <= 2500, network
    assert len(blocks(documents, "verified")) > 3, "divided"
    for document in documents:
        limit = STORED if document["kind"] == "ConfigMap" else APPLIED
        assert len(json.dumps(document)) < limit, document["metadata"]["name"]
    release = json.dumps({"manifest": text, "config": values, "chart": (CHART / "values.yaml").read_text()})
    assert len(base64.b64encode(gzip.compress(release.encode()))) < STORED / 2


@one_helm
def test_the_reconciler_expects_all_parts(helm, many, tmp_path):
    _, documents = rendered(helm, tmp_path / "values.json", {"bannedAddresses": {"all": many[0]}})
    (expected,) = [document["data"] for document in documents if document["metadata"]["name"] == "binder-egress-policies"]
    there = {
        document["metadata"]["name"]: document["spec"]
        for document in documents
        if document["kind"] == "NetworkPolicy" and document["metadata"]["labels"]["app.kubernetes.io/component"] == "user-pods"
    }
    assert json.loads(expected["policies.json"]) == there
    assert {"binder-egress-base", "binder-egress-tier-verified", "binder-egress-tier-verified.2"} <= set(there)


def test_a_ban_wins_over_every_cidr_that_lies_in_it(helm, tmp_path):
    values = {
        "bannedAddresses": {"wide": ["203.0.113.0/24", "2001:db8::/32"]},
        "tiers": {
            "verified": {"cidrs": {"0.0.0.0/0": False, "203.0.113.0/25": True, "203.0.112.0/22": True, "2001:db8:7::/48": True}}
        },
    }
    _, documents = rendered(helm, tmp_path / "values.json", values)
    found = blocks(documents, "verified")
    assert [str(network) for network, _ in found] == ["2000::/3", "203.0.112.0/22"]
    assert not reachable(found, "203.0.113.5") and reachable(found, "203.0.112.5")
    assert not reachable(found, "2001:db8:7::1") and reachable(found, "2001:db7::1")


def test_everything_banned_leaves_nothing(helm, tmp_path):
    _, documents = rendered(helm, tmp_path / "values.json", {"bannedAddresses": {"all": ["0.0.0.0/0", "::/0"]}})
    assert blocks(documents, "verified") == []
    (policy,) = [each for each in documents if each["metadata"]["name"] == "binder-egress-tier-verified"]
    assert len(policy["spec"]["egress"]) == 1, "only DNS"


@one_helm
def test_exceptions_that_are_larger_than_a_part(helm, tmp_path):
    """A half of the address space that lies inside an exception is left out, instead of being opened."""
    crowded = [f"8.{a}.{b}.1" for a in range(12) for b in range(250)]
    values = {"bannedAddresses": {"crowded": crowded}, "except": {"128.0.0.0/1": True}}
    _, documents = rendered(helm, tmp_path / "values.json", values)
    found = [block for block in blocks(documents, "verified") if block[0].version == 4]
    assert len(found) > 1
    assert not any(reachable(found, address) for address in ("128.0.0.1", "200.1.1.1", "10.1.1.1", "8.3.7.1"))
    assert all(reachable(found, address) for address in ("8.3.7.2", "1.1.1.1", "9.9.9.9", "126.1.1.1", "8.200.0.1"))


@one_helm
def test_more_than_can_be_kept_is_refused_with_a_sentence(helm, tmp_path):
    many = [{"ipBlock": {"cidr": f"11.{a}.{b}.0/24"}} for a in range(130) for b in range(256)]
    (tmp_path / "values.json").write_text(json.dumps({"base": {"egress": {"many": {"to": many}}}}))
    refused = helm("template", "r", CHART, "--values", tmp_path / "values.json", check=False)
    assert refused.returncode != 0 and "put fewer addresses into bannedAddresses" in refused.stderr
