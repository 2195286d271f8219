"""Baselines: what a system is measured against, as learners in the same frame."""
