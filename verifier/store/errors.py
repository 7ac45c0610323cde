"""What a call of the store can raise."""


class StoreUnavailable(Exception):
    """Redis does not answer, or refuses to write. Nothing was granted."""


class Replayed(Exception):
    """A solution was used before. The text is `replayed`, or `before-epoch` if that cannot be known any more."""


class PriceRisen(Exception):
    """A challenge asked for less than it may by now. Its solution is not used up."""


class KeyRevoked(Exception):
    """An operator revoked the API key."""


class BudgetSpent(Exception):
    """A client network, or an API key, had as many passes as it may. The solution is not used up.

    Args:
        retry_after: seconds until there is something left.
    """

    def __init__(self, retry_after: int):
        super().__init__(retry_after)
        self.retry_after = retry_after
