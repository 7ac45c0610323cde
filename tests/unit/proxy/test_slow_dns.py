"""A DNS server that answers the egress proxy late or not at all, with the resolver of the system."""

import pytest

from tests.support.egress_proxy import slow_dns
from verifier.proxy.resolve import NAMES_OF_ONE, TIMEOUT_SECONDS, TRIES, TRY_SECONDS

UNANSWERED = "HTTP/1.1 504 DNS does not answer, try again"


@pytest.fixture(scope="module")
def seen():
    return slow_dns.seen()


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_open_tunnel_goes_on_while_names_are_not_answered(seen, when):
    assert "REACHED host=ok.example" in seen[when][0]


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_other_server_reaches_hosts_while_names_are_not_answered(seen, when):
    assert seen[when][1] == "HTTP/1.1 200 OK"


def test_name_that_is_answered_late_is_waited_for(seen):
    assert seen["late"] == "HTTP/1.1 200 OK"


def test_server_waits_for_a_few_names_at_a_time(seen):
    assert 0 < seen["names"] <= NAMES_OF_ONE


def test_connection_to_an_unanswered_name_gets_an_answer_in_time(seen):
    """The connections that wait for others of their server get an answer, too."""
    assert seen["never"] == [UNANSWERED]
    assert seen["seconds"][0] >= TRIES * TRY_SECONDS and seen["seconds"][1] < 10 * TIMEOUT_SECONDS


def test_lost_question_does_not_cost_the_connection(seen):
    """It is asked once more. A name that takes longer than the proxy's limit would be refused."""
    assert seen["lost"] == "HTTP/1.1 200 OK"


def test_failure_of_dns_is_not_reported_as_a_name_without_an_address(seen):
    assert seen["failed"] == UNANSWERED


def test_servers_that_wait_for_names_leave_threads_to_others(seen):
    """Together they request as many names as the proxy resolves at a time, and more than one each."""
    assert seen["crowd"] == ["HTTP/1.1 200 OK"] * 2


def test_unverified_servers_that_wait_for_names_leave_verified_ones_their_threads(seen):
    """Together they request more names than the proxy resolves at a time."""
    assert seen["strangers"] == "HTTP/1.1 200 OK"
