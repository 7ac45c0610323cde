"""A DNS server that answers the egress proxy late or not at all, with the resolver of the system. Its threads: `test_resolve`."""

import pytest

from tests.support.egress_proxy import slow_dns
from verifier.proxy.resolve import TIMEOUT_SECONDS, TRIES, TRY_SECONDS

UNANSWERED = "HTTP/1.1 504 DNS does not answer, try again"


@pytest.fixture(scope="module")
def seen():
    return slow_dns.seen()


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_open_tunnel_and_other_servers_go_on_while_names_are_not_answered(seen, when):
    through_tunnel, of_another = seen[when]
    assert "REACHED host=ok.example" in through_tunnel and of_another == "HTTP/1.1 200 OK"


def test_name_that_is_answered_late_is_waited_for(seen):
    assert seen["late"] == "HTTP/1.1 200 OK"


def test_connection_to_an_unanswered_name_gets_an_answer_in_time(seen):
    """The connections that wait for others of their server get an answer, too."""
    assert seen["never"] == [UNANSWERED]
    assert seen["seconds"][0] >= TRIES * TRY_SECONDS and seen["seconds"][1] < 10 * TIMEOUT_SECONDS


def test_lost_question_does_not_cost_the_connection(seen):
    """It is asked once more. A name that takes longer than the proxy's limit would be refused."""
    assert seen["lost"] == "HTTP/1.1 200 OK"


def test_failure_of_dns_is_not_reported_as_a_name_without_an_address(seen):
    assert seen["failed"] == UNANSWERED
