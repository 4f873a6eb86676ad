"""Settings that hold for every test."""

from hypothesis import settings

settings.register_profile("subsel", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("subsel")
