"""Random cells: repeatable, and every cell of the space as likely as any other."""

import collections

import pytest

from darts_tf.errors import InputError
from darts_tf.genotype import RNN_PRIMITIVES, random_recurrent


def test_a_seed_gives_one_cell_and_another_seed_another():
    assert random_recurrent(3) == random_recurrent(3)
    assert random_recurrent(3) != random_recurrent(4)
    assert len(random_recurrent(0).recurrent) == 8
    assert random_recurrent(0, 3).concat == (1, 2, 3)


def test_activations_and_predecessors_of_a_node_are_equally_likely():
    draws = 2400
    counts = collections.Counter(random_recurrent(seed, 3).recurrent[2] for seed in range(draws))
    cells = {(name, j) for name in RNN_PRIMITIVES if name != "none" for j in range(3)}
    assert set(counts) == cells
    expected = draws / len(cells)
    # Pearson's chi-squared with 11 degrees of freedom: 31 is exceeded once in a thousand times.
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 31


def test_a_cell_without_nodes_is_refused():
    with pytest.raises(InputError, match="num_nodes must be a whole number of 1 or more"):
        random_recurrent(0, 0)
