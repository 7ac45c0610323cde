"""The ConfigMap with what must outlive Redis (D-555)."""

import logging
import math
import time
from collections.abc import Callable

from kubernetes import client

from .. import kubernetes_api
from ..model.labels import JSON
from ..store.saved import ReconcilerSaved, data_of
from .attempts import Attempts

log = logging.getLogger("binder-egress")

SAVE_SECONDS = 1.0
"""Seconds until a change is saved, and a lost Redis noticed."""

READ_SECONDS = 60.0
"""Seconds between two looks at the ConfigMap, which somebody may have changed or removed."""


class SavedBlocks:
    """Keeps the ConfigMap as Redis is, and enters it into a Redis that is new or was lost. Helm creates it without data.

    There may be two reconcilers for a while. So a patch names the version that was read before Redis was, and fails if the other
    has written since: it may know of a block that was removed.

    A ConfigMap that is missing counts as empty, because a new installation must not wait. One that cannot be read is waited for:
    without the API server no grant reaches a pod anyway.

    Args:
        namespace: the namespace of the ConfigMap.
        name: its name.
        store: Redis.
        clock: Unix time in seconds.
        steady: monotonic time in seconds.
        api: the client; by default one with this pod's ServiceAccount.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        store: ReconcilerSaved,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        api: client.ApiClient | None = None,
    ):
        self._api = api or kubernetes_api.in_cluster_client()
        self._path, self._store = f"/api/v1/namespaces/{namespace}/configmaps/{name}", store
        self._clock, self._steady = clock, steady
        self._version: str | None = None  # of the ConfigMap, as it was seen last
        self._saved: dict[str, str] = {}  # its data
        self._latest: dict[str, str] = {}  # what Redis had last, if nobody else has written the ConfigMap since
        failing = "what must outlive Redis is not saved, or not restored: %s"
        self.attempts = Attempts(self.turn, SAVE_SECONDS, SAVE_SECONDS, failing)
        self._look_at = -math.inf  # when to look at the ConfigMap again, in steady seconds

    def turn(self) -> None:
        """Restore a lost Redis, and save what has changed.

        Raises:
            ApiServerUnavailable: the API server does not answer, or refuses the request.
            StoreUnavailable: Redis does not answer.
        """
        is_lost = self._store.restoration() is None
        if is_lost or self._steady() >= self._look_at:
            self._see(self._read())
        if is_lost:
            self._restore()
        self._latest = data_of(self._store.to_save())
        if self._latest != self._saved:
            self._look_at = -math.inf  # If this fails, somebody else may have written it.
            change = {"metadata": {"resourceVersion": self._version}, "data": self._latest}
            self._see(kubernetes_api.read(self._api, "PATCH", self._path, body=change, content_type=kubernetes_api.MERGE_PATCH))

    def _read(self) -> JSON:
        try:
            return dict(kubernetes_api.read(self._api, "GET", self._path))
        except kubernetes_api.ApiServerUnavailable as error:
            if error.status != 404:
                raise
            return {"metadata": {"resourceVersion": ""}}  # Nothing was saved, and nothing can be: the next patch fails.

    def _see(self, config_map: JSON) -> None:
        self._look_at = self._steady() + READ_SECONDS
        version, data = config_map["metadata"]["resourceVersion"], config_map.get("data") or {}
        if version != self._version:
            self._version = version
            self._latest = self._saved = {name: data[name] for name in ("blocks", "revoked") if name in data}

    def _restore(self) -> None:
        entered = self._store.restore(self._latest, self._clock())
        said = self._store.restoration()
        if entered and said and said["lost"]:
            log.warning("Redis was lost, and what was saved is restored", extra={"fields": dict(said)})
