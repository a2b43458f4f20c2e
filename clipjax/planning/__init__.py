"""The same train step, compiled for a machine you don't have: whether it fits, what it sends, how fast it could be."""
