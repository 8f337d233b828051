"""Seeded simulation of a whole grid over the very classes of staddle.engine."""
