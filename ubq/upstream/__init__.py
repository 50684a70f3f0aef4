"""Other people's checkpoints: what the two upstream code bases write, read into ubq's model."""
