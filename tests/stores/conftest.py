"""Stores on real servers."""

from __future__ import annotations

from tests.servers import *  # noqa: F403
