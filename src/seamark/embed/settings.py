"""What a locator or a caller may say about a model, checked; each provider adds its own members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from seamark.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping


class ModelSettings(BaseModel):
    """Settings of a model. One of them may be a key, so no error shows a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> Self:
        """Return the settings; InvalidRequestError names those that will not do."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
            raise InvalidRequestError(f"the model's settings: {wrong}") from None
