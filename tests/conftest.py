"""Settings of the whole suite."""

from hypothesis import settings

from tests.servers import *  # noqa: F403 - each server is started once, whoever asks for it

# A slow or busy machine is no failure of a property.
settings.register_profile("patchloom", deadline=None, print_blob=True)
settings.load_profile("patchloom")
