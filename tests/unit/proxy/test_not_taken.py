"""The egress proxy and a server that does not read what it asked for: what it costs others, and when its connections are cut."""

import pytest

from tests.support.egress_proxy import not_taken


@pytest.fixture(scope="module")
def seen():
    return not_taken.seen()


def test_server_with_the_most_waiting_bytes_loses_connections_until_the_limit_is_kept(seen):
    """The kernel gives one user 64 MiB of pipes. One is for the download that the proxy moves just now."""
    assert seen["pipes"] <= 1
    assert set(seen["cut"]) == {"unverified"} and 2 < seen["left"] < not_taken.NOT_READ
    assert seen["idle"]  # One on which nothing waits is not cut.
    # Short downloads, whose hosts have ended, count until they are read: the kernel has all of their bytes.
    assert 10 < seen["short"] < not_taken.SHORT
    # A body that breaks off counts until its host has read it.
    assert seen["broken"] == 1
    assert seen["errors"] == []  # Failures of cut connections are not errors of the loop.


@pytest.mark.parametrize(
    ("download", "least_bytes"),
    [
        pytest.param("earlier", 10_000_000, id="of another server, asked for before"),
        pytest.param("later", 10_000_000, id="of another server, asked for after"),
        pytest.param("reset", not_taken.SHORT_BYTES, id="of a host that resets the connection at the end"),
        # A minute passes, for which the program itself waits.
        pytest.param("paused", not_taken.SHORT_BYTES, id="of a host that has ended, read after a pause"),
    ],
)
def test_download_arrives(seen, download, least_bytes):
    assert seen[download] >= least_bytes


@pytest.mark.parametrize("upload", ["upload", "stuck"], ids=["more than may wait", "nothing is taken for a minute"])
def test_upload_that_its_host_does_not_read_is_cut(seen, upload):
    """The program waits for half a second. The client would give up after twenty, with another error."""
    assert seen[upload] in ("ConnectionResetError", "BrokenPipeError")


def test_client_that_waits_for_a_silent_host_keeps_its_connection(seen):
    """After its client has left, it ends after a quiet minute, for which the program itself waits."""
    assert seen["silent"] == 1
