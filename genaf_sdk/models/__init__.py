"""Encoder, head and classifier: pixels in, logits out, normalisation inside."""
