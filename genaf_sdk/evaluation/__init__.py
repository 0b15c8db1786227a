"""Measures a classifier: clean, under transferred, adaptive and white-box attacks."""
