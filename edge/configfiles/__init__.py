"""Changing a few keys of a configuration file somebody else wrote, and nothing else in it.

A file is text and what it reads as. ``edited`` tries the ways a format has of changing the text and takes the first whose result
reads as wanted: as before but for the changes. Comments, order and layout stay wherever a line-wise edit can do it. ``values.py``
has what all formats share; each other module is a format or a family of them.
"""

from .blocks import Block
from .ini import INI
from .lines import NPMRC, YAMLLines, YarnRC
from .properties import Properties
from .repositories import Repositories
from .toml import TOML
from .values import Format, KeyAt, Member, Values, edited, find
from .xml import MavenSettings

__all__ = [
    "INI",
    "NPMRC",
    "TOML",
    "Block",
    "Format",
    "KeyAt",
    "MavenSettings",
    "Member",
    "Properties",
    "Repositories",
    "Values",
    "YAMLLines",
    "YarnRC",
    "edited",
    "find",
]
