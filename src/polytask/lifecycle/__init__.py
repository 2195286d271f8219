"""Lifecycle: what happens to a model after it is fitted."""
