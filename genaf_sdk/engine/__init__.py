"""Trains: batches, processes, randomness, precision, faults, checkpoints."""
