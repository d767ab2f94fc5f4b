"""The names of what can stand on an edge; what they compute is for `darts_tf.space` to say."""

CNN_PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""Candidates of the published convolutional search, in the order of alpha's columns."""

CNN_EVALUATION_PRIMITIVES = ("sep_conv_7x7", "conv_7x1_1x7")
"""Primitives of the published NASNet and AmoebaNet cells that the search does not offer."""

RNN_PRIMITIVES = ("none", "tanh", "relu", "sigmoid", "identity")
"""Candidates of the published recurrent search, in the order of alpha's columns."""
