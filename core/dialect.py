"""Which optional parameters a chat endpoint takes, learnt from its refusals.

In: a function that builds a request without the parameters of a set. Out: what `read` makes of the
reply. A refusal (HTTP 400 or 422) that says that it does not know or support one of the parameters
is answered at once by the same request without it, within one `ask` of the Endpoint: the same
deadline, no try spent. Only an answer to that request shows that the parameter was at fault; from
then on it is left out for everybody. A refusal that merely quotes its name changes nothing.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from core.endpoint import Endpoint, HttpRequest
from core.errors import StageError
from core.protocols import HttpResponse

logger = logging.getLogger(__name__)
T = TypeVar("T")

_NOT_TAKEN = (
    r"(unsupported|not support|not allowed|not enabled|unavailable|unknown|unrecogni[sz]ed|invalid)"
)
_NEAR = ".{0,80}"


class Dialect:
    def __init__(self, endpoint: Endpoint, optional: Mapping[str, str]) -> None:
        """`optional`: a parameter -> a pattern for what refusals call it."""
        self._endpoint = endpoint
        self._refusals = {
            name: re.compile(f"{called}{_NEAR}{_NOT_TAKEN}|{_NOT_TAKEN}{_NEAR}{called}", re.I)
            for name, called in optional.items()
        }
        self._refused: frozenset[str] = frozenset()

    async def ask(
        self,
        build: Callable[[frozenset[str]], HttpRequest],
        read: Callable[[HttpResponse], T],
    ) -> T:
        """`build` makes the request without these parameters. Raises the Endpoint's error."""
        left_out = self._refused

        def revise(error: StageError) -> HttpRequest | None:
            nonlocal left_out
            if error.error_type not in ("HTTP 400", "HTTP 422"):
                return None
            for name, refusal in self._refusals.items():
                if name not in left_out and refusal.search(str(error)):
                    logger.info("%s; asking without %s", error, name)
                    left_out |= {name}
                    return build(left_out)
            return None

        def learn(response: HttpResponse) -> T:
            if new := left_out - self._refused:
                names = ", ".join(sorted(new))
                logger.warning("%s: %s is left out from now on", self._endpoint.name, names)
                self._refused |= new
            return read(response)

        return await self._endpoint.ask(build(left_out), learn, revise=revise)
