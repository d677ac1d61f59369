"""Where training stands: the number of the next batch."""

from collections.abc import Callable


class Position:
    """Counts the batches that training has finished.

    A batch counts when Lightning counts it: a checkpoint that is written because of an exception
    within a step has that step's batch come again.

    Args:
        num_processed: returns how many batches Lightning has finished.
    """

    def __init__(self, num_processed: Callable[[], int]) -> None:
        self._num_processed = num_processed
        self._next = 0
        # The batch that training has in hand, and how many were processed when it came.
        self._in_hand: tuple[int, int] | None = None

    def go_to(self, number: int) -> None:
        """Continue with this batch."""
        self._next, self._in_hand = number, None

    def take(self, number: int) -> None:
        """Note the batch that training begins."""
        self._in_hand = number, self._num_processed()

    def next_batch(self) -> int:
        """Return the number of the first batch that training has not finished."""
        if self._in_hand is None:
            return self._next
        number, processed_before = self._in_hand
        return number + int(self._num_processed() > processed_before)
