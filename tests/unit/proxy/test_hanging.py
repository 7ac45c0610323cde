"""The egress proxy with a Redis that accepts connections and does not answer."""

import pytest

from tests.support.egress_proxy import hanging


@pytest.fixture(scope="module")
def seen():
    return hanging.seen()


@pytest.mark.parametrize("when", ["before", "hangs", "long", "after"])
def test_open_tunnel_goes_on_while_redis_hangs(seen, when):
    assert "REACHED host=ok.example" in seen[when][0]


@pytest.mark.parametrize(
    ("when", "answer"), [("before", "HTTP/1.1 200"), ("hangs", "HTTP/1.1 200"), ("long", "HTTP/1.1 503"), ("after", "HTTP/1.1 200")]
)
def test_new_connections_go_by_what_was_known_for_half_a_minute(seen, when, answer):
    assert seen[when][1].startswith(answer)
