"""Work that a thread of the reconciler does again and again, whatever comes of it."""

import logging
import time
from collections.abc import Callable

from ..kubernetes_api import ApiServerUnavailable
from ..store.errors import StoreUnavailable

log = logging.getLogger("binder-egress")


class Attempts:
    """Does something every so many seconds, and sooner after a failure, which is logged if it is new.

    Args:
        work: does it once.
        seconds: the seconds until the next attempt.
        retry_seconds: the same after a failure.
        failing: the log's message if the API server or Redis does not answer, with `%s` for the reason.
    """

    def __init__(self, work: Callable[[], None], seconds: float, retry_seconds: float, failing: str):
        self._work, self._seconds, self._retry_seconds, self._failing = work, seconds, retry_seconds, failing
        self._said = ""

    def run(self) -> None:
        """Do it for ever."""
        while True:
            time.sleep(self.attempt())

    def attempt(self) -> float:
        """Do it once. Returns the seconds until the next attempt."""
        try:
            self._work()
            self._said = ""
            return self._seconds
        except (ApiServerUnavailable, StoreUnavailable) as error:
            if str(error) != self._said:
                log.warning(self._failing, error)
            self._said = str(error)
        except Exception as error:
            log.exception(self._failing, f"fault: {error!r}")
        return self._retry_seconds
