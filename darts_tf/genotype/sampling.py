"""Random cells: what a search must do better than (paper, tables 1 and 2, "random search")."""

import numpy as np

from darts_tf.errors import whole_number
from darts_tf.genotype.genotype import RecurrentGenotype
from darts_tf.genotype.primitives import RNN_PRIMITIVES


def random_recurrent(seed: int, num_nodes: int = 8) -> RecurrentGenotype:
    """A recurrent cell drawn at random, each cell of the search space as likely as any other.

    Args:
        seed: 0 or more; the same seed gives the same cell.
        num_nodes: Nodes beside node 0 (8 as published).

    Raises:
        InputError: There is no node, or the seed is negative.
    """
    generator = np.random.default_rng(whole_number("seed", seed, 0))
    num_nodes = whole_number("num_nodes", num_nodes)
    names = [name for name in RNN_PRIMITIVES if name != "none"]
    nodes = [
        (names[generator.integers(len(names))], int(generator.integers(node)))
        for node in range(1, num_nodes + 1)
    ]
    return RecurrentGenotype(nodes, range(1, num_nodes + 1))
