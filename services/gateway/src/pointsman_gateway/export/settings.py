"""The exporter's settings, read once from the environment (`POINTSMAN_EXPORT_*`)."""

import os
from pathlib import Path

from pointsman_servicekit.logs import LogFormat, LogLevel
from pointsman_servicekit.setting_names import require_known_settings
from pointsman_servicekit.setting_values import WrongSetting
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "POINTSMAN_EXPORT_"


class ExportSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    target: str = Field(
        default="", description="targets, with commas: a folder or URL of Parquet files, otlp+http://HOST:4318"
    )
    wal_dir: Path = Field(default=Path(".pointsman/wal"), description="the gateways' POINTSMAN_GATEWAY_WAL_DIR")
    seconds: float = Field(default=60.0, ge=0, description="for which records are collected for a file")
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"


def read_settings() -> ExportSettings:
    """Reads the exporter's settings from the environment.

    Raises UnknownSetting if a variable with the prefix is not a setting, and WrongSetting if a value is invalid.
    """
    require_known_settings(PREFIX, ExportSettings.model_fields, os.environ)
    try:
        return ExportSettings()
    except ValidationError as error:
        raise WrongSetting(PREFIX, error.errors()) from error
