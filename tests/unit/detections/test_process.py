"""The receiver as a process, with gunicorn, a real port and threads: no sender harms the others."""

import json
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from urllib.error import HTTPError

import pytest

from binder_egress.web.gunicorn import REPORT_CONNECTIONS
from binder_egress.web.receiver import MAX_LINES, MAX_REPORT_BYTES
from tests.support.apps import DIRECT, ReceiverProcess
from tests.support.processes import peak_mib

LINE = '{"uid": "uid-1", "list": "miners", "label": "xmrig"}'


@pytest.fixture
def receiver(redis_server, store):
    """A receiver for which this machine is a node with an agent."""
    store.publish_agents({"127.0.0.1": "node-1"})
    process = ReceiverProcess(redis_server, detections={"agent": {}})
    yield process
    process.stop()


def send(receiver, body):
    try:
        with DIRECT.open(urllib.request.Request(f"{receiver.address}/api/detections", body.encode()), timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_longest_request_of_this_machine_is_read(receiver, store):
    padded = LINE.replace("xmrig", "x" * (MAX_REPORT_BYTES // MAX_LINES - len(LINE)))
    status, answer = send(receiver, "\n".join([padded] * MAX_LINES))
    assert (status, answer["reports"]) == (202, MAX_LINES)
    assert [(report.uid, report.sender) for _, report in store.waiting_reports(1000)] == [("uid-1", "127.0.0.1")] * MAX_LINES


def test_senders_that_do_not_go_on_hold_up_no_other(receiver, store):
    begun = b"POST /api/detections HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    slow = []
    try:
        for _ in range(2 * REPORT_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", receiver.port), timeout=60)
            connection.sendall(begun)
            slow.append(connection)
        assert send(receiver, LINE)[0] == 202
        assert len(store.waiting_reports(9)) == 1
    finally:
        for connection in slow:
            connection.close()


def test_flood_takes_bounded_memory(receiver):
    """The input that takes most memory: a megabyte of empty lists in one line, from more senders than are served at a time."""
    before = peak_mib(*receiver.processes())
    body = '{"pod": [' + ",".join(["[]"] * (MAX_REPORT_BYTES // 3 - 10)) + "]}"

    def flood(_):
        with suppress(OSError, HTTPException):  # A busy machine may be too late for the limits of a request.
            return send(receiver, body)[0]

    with ThreadPoolExecutor(12) as senders:
        answers = list(senders.map(flood, range(20)))
    assert 202 in answers
    # Both processes take 50 MiB of the chart's 256, as they share much.
    assert peak_mib(*receiver.processes()) - before < 200
