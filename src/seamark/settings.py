"""Settings from the environment and from `seamark.toml`, parsed once; arguments given in code or on the command line win."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from seamark.core.audit import AUDIT_INTERVAL_SECONDS
from seamark.core.registry import PROBE_INTERVAL_SECONDS
from seamark.core.service import RETENTION_DAYS
from seamark.errors import InvalidRequestError

FILE = Path("seamark.toml")


class Settings(BaseSettings):
    """`SEAMARK_DB` and so on in the environment; `db` and so on in `seamark.toml` of the working directory."""

    model_config = SettingsConfigDict(env_prefix="SEAMARK_", toml_file=FILE, extra="forbid", frozen=True)

    db: str | None = None
    """The database's URL: `sqlite:///app.db` or `postgresql://…`."""
    model: str = "static"
    """The embedder of new sources: `static`, `sentence-transformers:<name>`, `openai:<model>`, `ollama:<model>`,
    `tei:<model>`."""
    audit_interval_seconds: float = Field(default=AUDIT_INTERVAL_SECONDS, ge=0)
    """How often workers compare everything by content; 0 for never."""
    probe_interval_seconds: float = Field(default=PROBE_INTERVAL_SECONDS, ge=0)
    """How often a worker that runs on compares models with what was registered; 0 for once only."""
    retention_days: float = Field(default=RETENTION_DAYS, ge=0)
    """How long a retired generation keeps its vectors, so that it can be rolled back to."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then the file."""
        _ = dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def settings() -> Settings:
    """Read the settings; InvalidRequestError, without the value at fault, which may be a secret, when they cannot be read."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"setting {name!r} of {FILE} or the environment: {first['msg']}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidRequestError(f"{FILE} cannot be read: {error}") from error
