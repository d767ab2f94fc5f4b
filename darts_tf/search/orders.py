"""The names of the three architecture gradients; see `darts_tf.search.bilevel`."""

ORDERS = ("first", "second_fd", "second_exact")
