"""`Allowance`: a limit for the memory or the work that one upstream answer can cause."""

from tidegate.errors import UpstreamFailed

_OBJECT_BYTES = 64  # Python's own bytes for a short object, about


class Allowance:
    """A number of bytes that may be used, counted approximately; owned by one answer.

    Attributes:
        is_spent: whether more bytes were taken than there were.
    """

    __slots__ = ("_remaining", "is_spent")

    def __init__(self, size: int) -> None:
        self._remaining = size
        self.is_spent = False

    def take(self, size: int) -> bool:
        """Subtract the cost of an object of `size` bytes or characters; return whether enough was left."""
        self._remaining -= size + _OBJECT_BYTES
        self.is_spent = self._remaining < 0
        return not self.is_spent

    def require(self, size: int) -> None:
        """Subtract the cost of an object of `size` bytes or characters.

        Raises:
            UpstreamFailed: not enough was left.
        """
        if not self.take(size):
            raise UpstreamFailed("The upstream's answer holds more than can be kept.")
