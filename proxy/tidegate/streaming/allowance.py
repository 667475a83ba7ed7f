"""How much one answer may make us keep, or do again: whatever an upstream sends, memory and time stay bounded."""

from tidegate.errors import UpstreamFailed

_OBJECT_BYTES = 64  # of Python around a short piece


class Allowance:
    """So many bytes, about; owned by one answer.

    Attributes:
        is_spent: whether more was asked for than there was.
    """

    __slots__ = ("_left", "is_spent")

    def __init__(self, size: int) -> None:
        self._left = size
        self.is_spent = False

    def take(self, size: int) -> bool:
        """Take what a piece of `size` bytes or characters costs; whether there was enough."""
        self._left -= size + _OBJECT_BYTES
        self.is_spent = self._left < 0
        return not self.is_spent

    def require(self, size: int) -> None:
        """Take that.

        Raises:
            UpstreamFailed: not enough was left.
        """
        if not self.take(size):
            raise UpstreamFailed("The upstream's answer holds more than can be kept.")
