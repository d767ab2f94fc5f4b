"""What a search space is made of; `functional` is also for search spaces of users."""

from darts_tf.space import functional

__all__ = ["functional"]
