"""The public port: paths that clients post to, the origin of a page that is listed, and problems."""

from binder_egress.web.problems import TITLES, TYPE

POSTS = ["/egress/passes", "/egress/servers/alice", "/egress/servers/alice/x"]
"""Paths to which clients post."""

LISTED = "https://course.example.com"
"""The origin of a page that the operators allow."""


def assert_problem(answer, kind, status=None):
    """Check for a problem of RFC 9457 with our stable type and its status. A test may name the status too."""
    known, title = TITLES[kind]
    assert answer.status_code == known, answer.text
    assert status in (None, known)
    assert answer.content_type == "application/problem+json"
    assert answer.json.keys() == {"type", "title", "status", "detail"}
    assert (answer.json["type"], answer.json["title"], answer.json["status"]) == (TYPE + kind, title, known)
    assert answer.json["detail"]
