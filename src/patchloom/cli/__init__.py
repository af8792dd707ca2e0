"""Command line: parses, calls the API, prints."""

from patchloom.cli.app import main

__all__ = ["main"]
