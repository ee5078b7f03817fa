"""What the tools share: reading arguments, and the sentences for those that cannot be read."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from core.protocols import ToolSpec
from core.records import FoundImage, ToolResult
from envs.passages import one_line
from envs.provider import Fetched

MAX_QUERY_CHARS = 400
MAX_URL_CHARS = 2048


class ArgumentsError(ValueError):
    """One sentence for the policy: what is wrong with its arguments."""


def _query(text: str) -> str:
    return _bounded(text, max_chars=MAX_QUERY_CHARS)


def _url(text: str) -> str:
    return _bounded(text, max_chars=MAX_URL_CHARS)


def _bounded(text: str, *, max_chars: int) -> str:
    line = one_line(text, max_chars=max_chars + 1)
    if not line:
        raise ValueError("it is empty")
    if len(line) > max_chars:
        raise ValueError(f"it is longer than {max_chars} characters")
    return line


Query = Annotated[str, AfterValidator(_query)]
Url = Annotated[str, AfterValidator(_url)]
TopK = Annotated[int | None, Field(ge=1, le=20)]


class ToolArguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Arguments = TypeVar("Arguments", bound=ToolArguments)


class ProviderTool(ABC, Generic[Arguments]):
    """`read`, then `run`; the toolbox does both."""

    model: type[Arguments]
    spec: ToolSpec

    def read(self, arguments: str) -> Arguments:
        """The arguments with their defaults. Raises ArgumentsError."""
        try:
            return self.model.model_validate_json(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ArgumentsError(_sentence(dict(first), known=self.model.model_fields)) from error

    @abstractmethod
    async def run(self, arguments: Arguments) -> ToolResult:
        """Raises ToolError."""


def result_of(
    text: str, fetched: Iterable[Fetched[Any]], *, images: tuple[FoundImage, ...] = ()
) -> ToolResult:
    """A result and what all its operations took."""
    parts = tuple(fetched)
    stand_ins = [part.stand_in for part in parts if part.stand_in is not None]
    return ToolResult(
        text=text,
        images=images,
        cached=all(part.cached for part in parts),
        cost_usd=sum(part.cost_usd for part in parts),
        upstream_calls=sum(part.upstream_calls for part in parts),
        stand_in="; ".join(stand_ins) if stand_ins else None,
    )


def parameters(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def top_k_schema(default: int, *, at_most: int) -> dict[str, Any]:
    return {"type": "integer", "default": default, "minimum": 1, "maximum": at_most}


def _sentence(error: dict[str, Any], *, known: Any) -> str:
    match error["type"]:
        case "json_invalid":
            return "bad arguments: not valid JSON"
        case "model_type":
            return "bad arguments: not a JSON object"
        case "extra_forbidden":
            return f"bad arguments: unknown name; use {', '.join(known)}"
        case "missing":
            return f"bad arguments: {error['loc'][0]} is missing"
        case _:
            message = error["msg"].removeprefix("Value error, ")
            return f"bad arguments: {error['loc'][0]}: {message}"
