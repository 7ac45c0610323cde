"""Redis does what it is asked, and the answer gets lost: redis-py then sends the call again, on a new connection."""

from typing import Any

import redis


class LostAnswers(redis.Redis):
    """A client, made by `from_url`, that sends each script twice. The caller gets the second of both `answers`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answers: list[list[Any]] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] != "EVALSHA":
            return super().execute_command(*args, **options)
        answers = [super().execute_command(*args, **options), super().execute_command(*args, **options)]
        self.answers.append(answers)
        return answers[1]
