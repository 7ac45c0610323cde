"""Ping: how the hub closes it in user pods, how pods that can still ping are counted, and how the probe tries it."""

import asyncio
import socket
from unittest.mock import MagicMock

import pytest
from traitlets.config import Config

from binder_egress.gatecheck import probe
from binder_egress.model.ping import CLOSED, SYSCTL, way_to_ping
from tests.support.charts import VALUES
from tests.support.start_guard import INTEGRATION, spawner_after

SNIPPET = INTEGRATION["hub"]["extraConfig"]["zz-binder-egress-close-ping"]
OURS = {"name": SYSCTL, "value": CLOSED}
OTHER = {"name": "net.ipv6.conf.all.disable_ipv6", "value": "1"}


# -- in the hub


def load(config=None, on=True):
    """Run the snippet as the hub does. Returns a spawner."""
    return spawner_after(SNIPPET, config, "closePing", on)


def test_hub_closes_ping_unless_it_is_left_open():
    assert INTEGRATION["custom"]["binderEgress"]["closePing"] is True
    spawner = load()
    assert (spawner.pod_security_context, spawner.extra_pod_config) == ({"sysctls": [OURS]}, {})
    c = Config()
    c.KubeSpawner.pod_security_context = {"fsGroup": 100}
    assert load(c, on=False).pod_security_context == {"fsGroup": 100}


@pytest.mark.parametrize("section", ["KubeSpawner", "BinderSpawner"])
def test_configured_context_is_kept(section):
    c = Config()
    c.KubeSpawner.pod_security_context = {"hidden": True}
    c[section].pod_security_context = {"fsGroup": 100, "sysctls": [OTHER, {"name": SYSCTL, "value": "0 1000"}]}
    assert load(c).pod_security_context == {"fsGroup": 100, "sysctls": [OTHER, OURS]}
    c = Config()
    c[section].pod_security_context.update({"fsGroup": 100})
    assert load(c).pod_security_context == {"fsGroup": 100, "sysctls": [OURS]}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("made", [{"fsGroup": 100}, None])
def test_function_that_makes_the_context_is_kept(asynchronous, made):
    async def later(spawner):
        return made

    c = Config()
    c.KubeSpawner.pod_security_context = later if asynchronous else lambda spawner: made
    assert asyncio.run(load(c).pod_security_context(None)) == {**(made or {}), "sysctls": [OURS]}


@pytest.mark.parametrize("key", ["securityContext", "security_context"])
def test_context_in_extra_pod_config_is_added_to(key):
    """KubeSpawner replaces the other with it."""
    c = Config()
    c.KubeSpawner.extra_pod_config = {"dnsPolicy": "None", key: {"sysctls": [OTHER]}}
    assert load(c).extra_pod_config == {"dnsPolicy": "None", key: {"sysctls": [OTHER, OURS]}}


def test_hub_starts_with_a_context_that_cannot_be_read(capsys):
    c = Config()
    c.KubeSpawner.pod_security_context = {"sysctls": ["nonsense"]}
    assert load(c).pod_security_context == {"sysctls": ["nonsense"]}
    assert "ping stays open: TypeError" in capsys.readouterr().out


def test_probe_pods_have_the_sysctl_of_user_pods():
    assert VALUES["gatecheck"]["sysctls"] == {SYSCTL: CLOSED}


# -- pods that still can


def spec(context=None, sysctls=(OURS,), **pod):
    return {"securityContext": {"sysctls": list(sysctls), **pod}, "containers": [{"securityContext": context}]}


CONFINED = {"runAsUser": 1000, "allowPrivilegeEscalation": False}
"""A user's container as JupyterHub's chart makes it."""


@pytest.mark.parametrize(
    ("body", "way"),
    [
        (spec(CONFINED), ""),
        (spec(CONFINED, [OTHER, {"name": SYSCTL, "value": "1\t0"}]), ""),
        (spec(CONFINED, []), "no-sysctl"),
        ({"containers": [{"securityContext": CONFINED}]}, "no-sysctl"),
        (spec(CONFINED, [{"name": SYSCTL, "value": "0 2147483647"}]), "no-sysctl"),
        (spec({"allowPrivilegeEscalation": False}, runAsUser=1000), ""),
        (spec({"allowPrivilegeEscalation": False}, runAsNonRoot=True), ""),
        (spec({"allowPrivilegeEscalation": False}), "privileges"),
        (spec({"allowPrivilegeEscalation": False, "runAsUser": 0}, runAsUser=1000), "privileges"),
        (spec({"runAsUser": 1000}), "privileges"),
        (spec(), "privileges"),
        (spec({"capabilities": {"drop": ["ALL"]}}), ""),
        (spec({"capabilities": {"drop": ["NET_RAW"]}}), ""),
        (spec({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}), "privileges"),
        (spec({**CONFINED, "capabilities": {"add": ["NET_RAW"]}}), ""),
        (spec({**CONFINED, "privileged": True, "capabilities": {"drop": ["ALL"]}}), "privileges"),
    ],
)
def test_pod_can_ping_without_the_sysctl_or_with_privileges(body, way):
    assert way_to_ping(body) == way


# -- the probe


@pytest.mark.parametrize(
    ("target", "protocol", "request_type"),
    [("ping://192.0.2.1", socket.IPPROTO_ICMP, 8), ("ping://[2001:db8::1]", socket.IPPROTO_ICMPV6, 128)],
)
@pytest.mark.parametrize("answers", [True, False])
def test_ping_target_is_sent_an_echo_request(monkeypatch, target, protocol, request_type, answers):
    """The kernel here may refuse sockets for echo requests to everybody."""
    made = MagicMock()
    echo = made.return_value
    echo.recv.side_effect = [b"\0" * 8] if answers else TimeoutError
    monkeypatch.setattr(probe.socket, "socket", made)
    assert probe.reaches(target) is answers
    assert made.call_args.args[1:] == (socket.SOCK_DGRAM, protocol) and echo.send.call_args.args[0][0] == request_type


def test_ping_target_is_not_tried_if_no_echo_socket_may_be_opened(monkeypatch):
    monkeypatch.setattr(probe.socket, "socket", MagicMock(side_effect=PermissionError(13, "Permission denied")))
    assert probe.reaches("ping://192.0.2.1") is None
