"""What all tables of the configuration share."""

from pydantic import BaseModel, ConfigDict

from fedmed.config.names import kebab


class Section(BaseModel):
    """A table of the configuration; unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        alias_generator=kebab, extra="forbid", frozen=True, strict=True, populate_by_name=True
    )
