"""Measures a model under attack and reports it."""
