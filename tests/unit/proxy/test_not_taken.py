"""The egress proxy and a server that does not read what it asked for: what it costs others, and when its connections are cut."""

import pytest

from tests.support.egress_proxy import not_taken


@pytest.fixture(scope="module")
def seen():
    return not_taken.seen()


def test_downloads_that_wait_hold_no_pipes(seen):
    """The kernel gives one user 64 MiB of pipes. One is for the download that the proxy moves just now."""
    assert seen["pipes"] <= 1


def test_server_with_the_most_waiting_bytes_loses_connections_until_the_limit_is_kept(seen):
    assert set(seen["cut"]) == {"unverified"} and 2 < seen["left"] < not_taken.NOT_READ
    assert seen["idle"]  # One on which nothing waits is not cut.


@pytest.mark.parametrize("download", ["earlier", "later"])
def test_download_of_another_server_goes_on(seen, download):
    assert seen[download] >= 10_000_000


def test_short_downloads_count_until_they_are_read(seen):
    """Their hosts have ended, and the kernel has all of their bytes."""
    assert 10 < seen["short"] < not_taken.SHORT


def test_client_gets_everything_from_a_host_that_resets_the_connection_at_the_end(seen):
    assert seen["reset"] >= not_taken.SHORT_BYTES


def test_paused_download_goes_on_later(seen):
    """Its host has ended, and a minute passes, for which the program itself waits."""
    assert seen["paused"] >= not_taken.SHORT_BYTES


@pytest.mark.parametrize("upload", ["upload", "stuck"], ids=["more than may wait", "nothing is taken for a minute"])
def test_upload_that_its_host_does_not_read_is_cut(seen, upload):
    """The program waits for half a second. The client would give up after twenty, with another error."""
    assert seen[upload] in ("ConnectionResetError", "BrokenPipeError")


def test_body_that_breaks_off_counts_until_its_host_has_read_it(seen):
    assert seen["broken"] == 1


def test_client_that_waits_for_a_silent_host_keeps_its_connection(seen):
    """After its client has left, it ends after a quiet minute, for which the program itself waits."""
    assert seen["silent"] == 1


def test_failures_of_cut_connections_are_not_errors_of_the_loop(seen):
    assert seen["errors"] == []
