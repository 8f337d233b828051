"""Makes an agent's media out of the configuration."""

from __future__ import annotations

import logging
from typing import NamedTuple

from staddle.api.media import Medium
from staddle.config import Settings
from staddle.errors import StaddleError
from staddle.plugins import PluginRegistry
from staddle.wrap import wrap

log = logging.getLogger(__name__)


class BuiltMedia(NamedTuple):
    """Wrapped drivers and the deadlines of their calls; `problems` says why a medium is not among them."""

    media: dict[str, Medium]
    deadlines_s: dict[str, float]
    problems: dict[str, str]


def build(settings: Settings, agent: str, registry: PluginRegistry) -> BuiltMedia:
    """The media that an agent reaches. One that can't be made does not keep the others away."""
    built = BuiltMedia({}, {}, {})
    for name in settings.media_of(agent):
        table = settings.medium[name]
        try:
            factory = registry.media_type(table.plugin).load()
            driver = factory(name, settings.medium_config(name, registry))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - foreign code, SystemExit too: its medium is bad, not the agent
            log.error("medium %s can't be used: %s", name, error)
            built.problems[name] = str(error) if isinstance(error, StaddleError) else repr(error)
            continue
        built.media[name] = wrap(driver, table)
        built.deadlines_s[name] = table.deadline_s
    return built
