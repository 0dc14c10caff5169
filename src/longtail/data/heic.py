"""Photographs as telephones save them (.heic, .heif), which Pillow reads through the optional package `pillow-heif`."""

from __future__ import annotations

from functools import cache

SUFFIXES = (".heic", ".heif")


@cache
def is_read() -> bool:
    """Whether such files can be decoded: the package is there, and Pillow knows of it from now on."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
