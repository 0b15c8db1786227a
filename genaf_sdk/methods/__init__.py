"""Gen-AF: the two stages, their parts, and the baselines on the same loop."""
