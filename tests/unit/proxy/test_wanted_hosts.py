"""Hosts that unverified servers requested and did not get: counted in memory, published, listed by `egress hosts wanted`."""

import json
import re

from click.testing import CliRunner

from binder_egress.commands.egress import egress
from binder_egress.proxy.identities import Identities
from binder_egress.proxy.limits import DEFAULT_PORTS, Limits, Usage
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.source_ports import SourcePorts
from binder_egress.proxy.wanted_hosts import KEPT_SECONDS, MOST_CHARACTERS, OF_ONE, ROWS, SHOWN, WantedHosts
from tests.support.clock import Clock


def test_requests_are_counted_by_repository_and_host_for_a_day():
    clock = Clock(1_800_000_000)
    wanted = WantedHosts(clock)
    for repository, host in (("a", "one.example"), ("b", "one.example"), ("a", "one.example"), ("a", "two.example")):
        wanted.note(repository, host)
    clock.now += 60
    wanted.note("a", "one.example")
    found = {(row["repository"], row["host"]): (row["times"], row["last"]) for row in wanted.rows()}
    assert found == {
        ("a", "one.example"): (3, clock.now),
        ("b", "one.example"): (1, clock.now - 60),
        ("a", "two.example"): (1, clock.now - 60),
    }
    clock.now += KEPT_SECONDS - 30
    assert [(row["repository"], row["host"]) for row in wanted.rows()] == [("a", "one.example")]


def test_names_that_a_stranger_makes_up_do_not_drive_out_others():
    wanted = WantedHosts()
    for _ in range(3):
        wanted.note("course", "data.example")
    for number in range(10 * ROWS):
        wanted.note("stranger", f"{number}.example")
    found = wanted.rows()
    assert len(found) == OF_ONE + 1 and {"repository": "course", "host": "data.example", "times": 3}.items() <= found[0].items()
    for number in range(10 * ROWS):
        wanted.note(f"stranger {number}", f"{number}.example")
    assert len(wanted.rows()) == ROWS and wanted.rows()[0]["host"] == "data.example"


def test_metrics_name_the_hosts_that_were_asked_for_most():
    wanted, metrics = WantedHosts(), Metrics()
    for number in range(SHOWN + 3):
        for repository in ("a", "b"):
            for _ in range(number):
                wanted.note(repository, f"{number}.example")

    def shown():
        metrics.state(Identities(), Usage(Limits()), SourcePorts(DEFAULT_PORTS), wanted)
        return re.findall(
            r'^binder_egress_proxy_wanted_hosts{host="(\d)\.example"} (\d+)\.0$', metrics.text().decode(), re.MULTILINE
        )

    assert shown() == [(str(number), str(2 * number)) for number in range(SHOWN + 2, 2, -1)]
    # A host that is overtaken is no longer named.
    for _ in range(20):
        wanted.note("a", "0.example")
    assert {host for host, _ in shown()} == {"0", "4", "5", "6", "7"}


def test_name_of_a_repository_is_kept_in_part():
    wanted = WantedHosts()
    wanted.note("https://" + "x" * 100_000, "one.example")
    assert len(json.dumps(wanted.rows())) < 2 * MOST_CHARACTERS


def test_command_adds_up_what_the_proxies_published(redis_server, store, monkeypatch):
    monkeypatch.setenv("BINDER_EGRESS_REDIS_URL", redis_server.url)
    one, other = WantedHosts(Clock(1_800_000_000)), WantedHosts(Clock(1_800_000_000))
    for wanted, host in ((one, "a.example"), (one, "b.example"), (other, "b.example")):
        wanted.note("https://github.com/org/course", host)
    store.publish_wanted_hosts("proxy-1", one.rows())
    store.publish_wanted_hosts("proxy-2", other.rows())
    listed = json.loads(CliRunner().invoke(egress, ["hosts", "wanted", "--json"]).output)
    assert [(row["host"], row["times"]) for row in listed] == [("b.example", 2), ("a.example", 1)]
    head, first, _ = CliRunner().invoke(egress, ["hosts", "wanted"]).output.splitlines()
    assert head.split() == ["REPOSITORY", "HOST", "TIMES", "LAST"]
    assert first.split() == ["https://github.com/org/course", "b.example", "2", "2027-01-15T08:00:00Z"]
