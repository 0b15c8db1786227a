"""Encoder, head and classifier: pixels in, logits out, normalization inside; and how they lie on disk."""
