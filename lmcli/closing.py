"""What is closed when the block ends that it was opened for."""

from types import TracebackType
from typing import Self


class Closing:
    """A context manager whose end is `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is held; a second time does nothing."""
        raise NotImplementedError
