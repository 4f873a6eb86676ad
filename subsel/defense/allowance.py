"""How much memory the content of a file may take, so that a small file cannot fill a machine."""

__all__ = ["GROWTH", "LARGEST", "SLACK", "Allowance", "TooLargeError"]

# A file may expand to GROWTH times its own size plus SLACK, and to LARGEST at most.  Images are
# compressed three- to tenfold, and pickled numbers grow up to eightfold; bombs grow a thousandfold.
GROWTH = 32
SLACK = 1 << 20
LARGEST = 4 << 30


class TooLargeError(ValueError):
    """A file claims to hold more than its size can explain."""


class Allowance:
    """The bytes that the content of one file may still take.

    Parameters
    ----------
    size : int
        Bytes of the file.
    name : str
        What to call the file in an error message.
    """

    def __init__(self, size: int, name: str) -> None:
        self.name = name
        self.size = size
        self.total = self.left = min(SLACK + GROWTH * size, LARGEST)

    def take(self, n_bytes: int) -> None:
        """Count bytes before they are allocated.

        Raises
        ------
        TooLargeError
            If there are more bytes than the allowance has left.
        """
        self.left -= n_bytes
        if self.left < 0:
            raise TooLargeError(
                f"{self.name} has {self.size} bytes and claims to hold more than {self.total}, "
                "which is what a file of this size may unfold to. If the file is honest, it "
                "repeats itself: write it again with every image and tensor stored once, in full"
            )
