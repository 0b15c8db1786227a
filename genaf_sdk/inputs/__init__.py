"""What an input is, and what an attacker may do to it."""
