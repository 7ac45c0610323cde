"""Verifiers that tests with the same settings share."""

import json

from tests.support.apps import RedisServer, VerifierProcess

KEPT = 4
"""How many verifiers a `Verifiers` keeps. Tests with the same settings follow one another."""


class Verifiers:
    """The verifiers of a Redis. A start takes more processor time than most tests, so the next test that needs the same settings
    gets the same process, with an empty Redis."""

    def __init__(self, redis_server: RedisServer) -> None:
        self._redis_server = redis_server
        self._processes: dict[str, VerifierProcess] = {}

    def start(self, **settings: object) -> VerifierProcess:
        """A verifier that is ready, with these settings."""
        key = json.dumps(settings, sort_keys=True)
        process = self._processes.pop(key, None)
        if process is None:
            if len(self._processes) == KEPT:
                self._processes.pop(next(iter(self._processes))).stop()
            process = VerifierProcess(self._redis_server, **settings)
        self._processes[key] = process
        process.await_ready()
        return process

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()
