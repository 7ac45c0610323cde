"""The exceptions of the store."""

from ..model.grants import Rule


class StoreUnavailable(Exception):
    """Redis does not answer in time, or refuses to write. What it was asked to write, it may still write later."""


class Replayed(Exception):
    """A solution was used before. The text is `replayed`, or `before-epoch` if a wiped Redis cannot know."""


class PriceRisen(Exception):
    """A challenge took less work than its network must do by now. The solution is not used up."""


class ClientRefused(Exception):
    """Blocks that this process did not know yet refuse the client. The solution is not used up.

    Args:
        rule: the rule that refuses it.
    """

    def __init__(self, rule: Rule):
        super().__init__(rule)
        self.rule = rule


class BlocksChanged(Exception):
    """The blocks have changed since a client was judged by them. Nothing was written; judge it again."""


class KeyRevoked(Exception):
    """An operator revoked the API key."""


class BudgetSpent(Exception):
    """A client network or an API key has used its budget of passes. The solution is not used up.

    Args:
        retry_after: seconds until the budget allows another pass.
    """

    def __init__(self, retry_after: int):
        super().__init__(retry_after)
        self.retry_after = retry_after


class PromiseKept(Exception):
    """A pass has kept the promise of a launch since the launch was decided. Nothing was written; decide it again."""


class LaunchDecided(Exception):
    """A launch was announced late, and its server has been announced by now, or has a tier, or is about to get one. Nothing was
    written."""


class PassKeepsAnother(Exception):
    """A pass keeps another promise already."""


class LaunchChanged(Exception):
    """A launch no longer waits for its pod as it did when it was read. Nothing was written; read it again."""
