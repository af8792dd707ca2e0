"""Names of units of length as OME spells them."""

from __future__ import annotations

__all__ = ["unit_name"]

NAMES = {
    "ångström": ("å", "angstrom"),
    "nanometer": ("nm", "nanometre"),
    "micrometer": ("um", "µm", "μm", "micron", "microns", "micrometre", "\\u00b5m", "\\u03bcm"),
    "millimeter": ("mm", "millimetre"),
    "centimeter": ("cm", "centimetre"),
    "meter": ("m", "metre"),
    "kilometer": ("km", "kilometre"),
    "inch": ("in", "inches", "inch"),
    "foot": ("ft", "feet"),
    "degree": ("deg", "degrees"),
    "second": ("s", "sec"),
    "millisecond": ("ms",),
}
LONG = {short: name for name, shorts in NAMES.items() for short in shorts} | {"ångström": "angstrom", "å": "angstrom"}


def unit_name(text: str) -> str:
    """Long name of a unit; as it is where it is not known.

    Examples
    --------
    >>> unit_name("µm"), unit_name("parsec")
    ('micrometer', 'parsec')
    """
    text = text.strip()
    return LONG.get(text.lower(), text)
