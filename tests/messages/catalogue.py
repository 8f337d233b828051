"""All mistakes, in the order of the page."""

# Each module adds its own to ALL when it is imported; their order is the page's.
from . import m_command_line, m_choosing, m_homes, m_start, m_damage, m_joining, m_media, m_work, m_around  # isort: skip
from .mistake import ALL as MISTAKES

__all__ = [
    "MISTAKES",
    "m_around",
    "m_choosing",
    "m_command_line",
    "m_damage",
    "m_homes",
    "m_joining",
    "m_media",
    "m_start",
    "m_work",
]
