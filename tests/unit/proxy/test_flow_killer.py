"""The egress proxy where something kills every process of the node that connects to many addresses, as cryptnono's flow killer."""

import signal

from tests.support.egress_proxy import flow_killer


def test_visitors_of_25_hosts_have_the_proxy_killed():
    """No server is a scanner: three of them open nine hosts each."""
    seen = flow_killer.seen()
    assert {line.split()[1] for line in [*seen["first"], seen["last"]]} == {"200"}
    assert seen["destinations"] == flow_killer.MOST and seen["lives"]
    assert seen["signal"] == signal.SIGKILL and "refused" in seen["afterwards"]
