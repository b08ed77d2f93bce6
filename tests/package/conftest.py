"""The package as ./build-deb makes it."""

from __future__ import annotations

from tests.package.building import deb

__all__ = ["deb"]
