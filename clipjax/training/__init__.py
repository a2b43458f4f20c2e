"""The training run: a pure step, and one loop with side effects."""
