"""Training of a network, with checkpoints from which it continues bit by bit."""
