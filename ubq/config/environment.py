"""The environment as a settings source: ``UBQ_QAT__EPOCHS=30``.

Imported only where a variable is set, so that commands without one do not pay for pydantic-settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from ubq.config.keys import all_keys
from ubq.config.layers import ENVIRONMENT_PREFIX, Layer, Source, flatten, nested, parse_text
from ubq.config.schema import Config


class _Settings(BaseSettings, Config):
    """The configuration as pydantic-settings knows it, with ubq's spelling of variables."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", case_sensitive=True, enable_decoding=False
    )


class EnvironmentSource(EnvSettingsSource):
    """Variables of one environment, with TOML where pydantic-settings reads JSON, and nothing passed over.

    pydantic-settings looks up the variables of the fields it knows; here every variable of the prefix
    becomes a value, so that a misspelt one is found. A single ``UBQ_WORD`` that is no key belongs to
    something else (``UBQ_LANG``).

    Args:
        environ: name -> text.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(_Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: text for name, text in self._environ.items() if name.startswith(self.env_prefix)}

    def layer(self) -> Layer:
        """The variables as a layer, each value with the name of its variable."""
        layer = Layer()
        for name, text in sorted(self.env_vars.items()):
            path = tuple(name[self.env_prefix_len :].lower().split(self.env_nested_delimiter))
            if len(path) == 1 and path not in all_keys():
                continue
            for inner, leaf in flatten({"": parse_text(path, text or "")}):
                layer.put((*path, *inner[1:]), leaf, Source(name, name))
        return layer

    def __call__(self) -> dict[str, Any]:
        """The tables that the variables spell out, for pydantic-settings."""
        return nested(self.layer().entries)
