"""The HTTP interface of a forge: the calls of GitHub's API that a pull request needs, for `responses`.

Paths, methods, status codes and fields come from PyGithub's recordings of the real one and from GitHub's reference.
"""

import base64
import hashlib
import json
import re
from urllib.parse import parse_qs, urlsplit

import responses

API = "https://forge.example.org/api/v3"
NAME = "hub/secrets"
ANY = re.compile(r"https://forge\.example\.org(:443)?/api/v3/")
"""Matches all of its addresses, in which PyGithub names the port."""


class Forge:
    """A repository with one file. `writes` has what was not a GET.

    `moved_empty`: a branch was without changes against the default branch. The real one closes its pull request then.
    """

    def __init__(self, content: bytes, private: bool = True):
        self.private, self.path = private, "values/config.yaml"
        self.trees = {"t0": content}
        self.commits = {"c0": {"tree": "t0", "parents": []}}
        self.branches = {"main": "c0"}
        self.pulls: list[dict] = []
        self.writes: list[tuple[str, str]] = []
        self.moved_empty = False
        for method in ("GET", "POST", "PATCH", "PUT", "DELETE"):
            responses.add_callback(method, ANY, self._answer)

    def file(self, branch: str) -> bytes:
        return self.trees[self.commits[self.branches[branch]]["tree"]]

    def _answer(self, request):
        url = urlsplit(request.url)
        assert request.headers["Authorization"] == "token secret"
        path = url.path.removeprefix(urlsplit(API).path).removeprefix(f"/repos/{NAME}")
        body = json.loads(request.body) if request.body else {}
        if request.method != "GET":
            self.writes.append((request.method, path))
        found = self._route(request.method, path, body, parse_qs(url.query))
        status = 404 if found is None else 201 if request.method == "POST" else 200
        return status, {"Content-Type": "application/json"}, json.dumps({"message": "Not Found"} if found is None else found)

    def _route(self, method, path, body, query):
        here = f"{API}/repos/{NAME}"
        match method, *path.strip("/").split("/", 2):
            case "GET", "":
                owner = {"login": "hub", "url": f"{API}/users/hub"}
                return {"full_name": NAME, "private": self.private, "default_branch": "main", "url": here, "owner": owner}
            case "GET", "contents", *_:
                if path != f"/contents/{self.path}":
                    return [] if path == "/contents/values" else None
                content = base64.encodebytes(self.file(query["ref"][0])).decode()
                return {"type": "file", "encoding": "base64", "content": content, "path": self.path, "url": f"{here}{path}"}
            case "GET", "branches", name:
                sha = self.branches.get(name)
                return {"name": name, "commit": {"sha": sha, "url": f"{API}/x", "commit": {}}} if sha else None
            case "GET", "git", "commits", sha:
                return self._commit(sha)
            case "POST", "git", "trees":
                (element,) = body["tree"]
                assert body["base_tree"] in self.trees and (element["path"], element["mode"]) == (self.path, "100644")
                return {"sha": self._kept(self.trees, element["content"].encode()), "tree": []}
            case "POST", "git", "commits":
                commit = {"tree": body["tree"], "parents": body["parents"], "message": body["message"], "number": len(self.commits)}
                return self._commit(self._kept(self.commits, commit))
            case "POST", "git", "refs":
                return self._move(body["ref"].removeprefix("refs/heads/"), body["sha"])
            case "GET", "git", "ref", head:
                return self._ref(head.removeprefix("heads/"))
            case "PATCH", "git", "refs", head:
                assert body["force"] is True
                return self._move(head.removeprefix("heads/"), body["sha"])
            case "GET", "pulls":
                (head,), (base,), (state,) = query["head"], query["base"], query["state"]
                wanted = (head, base, state)
                return [one for one in self.pulls if (f"hub:{one['head']['ref']}", one["base"]["ref"], one["state"]) == wanted]
            case "POST", "pulls":
                number = len(self.pulls) + 1
                about = {"number": number, "url": f"{here}/pulls/{number}", "state": "open", "title": body["title"]}
                self.pulls.append(about | {"body": body["body"], "head": {"ref": body["head"]}, "base": {"ref": body["base"]}})
                return self.pulls[-1]
            case "PATCH", "pulls", number:
                self.pulls[int(number) - 1] |= {name: body[name] for name in ("title", "body")}
                return self.pulls[int(number) - 1]
        raise AssertionError(f"{method} {path} is not in this double")

    def _move(self, branch, commit):
        self.branches[branch] = commit
        self.moved_empty |= self.file(branch) == self.file("main")
        return self._ref(branch)

    def _ref(self, branch):
        # Requested as `git/ref/…`, though its own address is `git/refs/…`.
        about = {"sha": self.branches[branch], "type": "commit", "url": f"{API}/x"}
        return {"ref": f"refs/heads/{branch}", "object": about, "url": f"{API}/repos/{NAME}/git/refs/heads/{branch}"}

    def _commit(self, sha):
        about = self.commits[sha]
        parents = [{"sha": parent, "url": f"{API}/x"} for parent in about["parents"]]
        return {"sha": sha, "url": f"{API}/x", "tree": {"sha": about["tree"], "url": f"{API}/x"}, "parents": parents}

    @staticmethod
    def _kept(where, what):
        sha = hashlib.sha1(repr(what).encode()).hexdigest()
        where[sha] = what
        return sha
