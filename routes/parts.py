"""What all shapes of a document share: exact types, names and tags, and the bounds of their numbers."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from routes import syntax

Name = Annotated[str, AfterValidator(syntax.name), WithJsonSchema(syntax.NAME_SCHEMA)]
Tag = Annotated[str, AfterValidator(syntax.tag), WithJsonSchema(syntax.TAG_SCHEMA)]
Tags = Annotated[list[Tag], Field(max_length=50)]


class Part(BaseModel):
    """Types are exact: the text "5" is not the number 5. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if not syntax.is_storable(value):
            raise ValueError("A text holds a NUL character or half a surrogate pair, which cannot be stored.")
        return value


def bounds(shape: type[Part]) -> dict[str, tuple[int, int]]:
    """Lowest and highest value of every number in a shape."""
    found = {}
    for name, field in shape.model_fields.items():
        low = [limit.ge for limit in field.metadata if isinstance(limit, Ge)]
        high = [limit.le for limit in field.metadata if isinstance(limit, Le)]
        if low and high:
            found[name] = (int(str(low[0])), int(str(high[0])))
    return found
