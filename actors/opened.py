"""What an actor opens when it starts, or why it could not.

Ray tells an error of a constructor as the text of a trace, which no caller can take for what it is;
an error that a method raises comes out as it went in. So an actor's constructor keeps errors of
ours, and its methods raise them.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from core.errors import GensearcherError

T = TypeVar("T")


class Opened(Generic[T]):
    def __init__(self, make: Callable[[], T]) -> None:
        """Errors that are not ours end the actor."""
        self._made: T | GensearcherError
        try:
            self._made = make()
        except GensearcherError as error:
            self._made = error

    @property
    def value(self) -> T:
        """Raises what `make` raised."""
        if isinstance(self._made, GensearcherError):
            raise self._made
        return self._made
