"""The derivation rule against published cases, cases worked by hand, and its refusals."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from darts_tf.errors import InputError
from darts_tf.genotype import (
    CNN_PRIMITIVES,
    RNN_PRIMITIVES,
    Genotype,
    RecurrentGenotype,
    derive,
    derive_recurrent,
    edge_offset,
    num_edges,
    num_nodes_of,
)

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = Path(os.environ.get("DARTS_TF_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
CASES = GOLDEN / "genotype_cases.json"
needs_cases = pytest.mark.skipif(not CASES.is_file(), reason=f"no published cases at {CASES}")

ZEROS = np.zeros((14, 8))
TWO_NODES = ["none", "skip_connect", "sep_conv_3x3"]


@needs_cases
def test_every_published_case_of_a_convolutional_cell_is_derived():
    for case in json.loads(CASES.read_text())["cnn"]:
        found = derive(case["alphas_normal"], case["alphas_reduce"])
        assert found == Genotype(**case["genotype"]), case["name"]
        single = derive(np.float32(case["alphas_normal"]), np.float32(case["alphas_reduce"]))
        assert single == found, case["name"]


@needs_cases
def test_every_published_case_of_a_recurrent_cell_is_derived():
    for case in json.loads(CASES.read_text())["rnn"]:
        found = derive_recurrent(case["alphas"])
        assert found == RecurrentGenotype(**case["genotype"]), case["name"]


def test_equal_alphas_keep_the_first_primitive_and_the_lowest_predecessors():
    pairs = [("max_pool_3x3", 0), ("max_pool_3x3", 1)] * 4
    assert derive(ZEROS, ZEROS) == Genotype(pairs, range(2, 6), pairs, range(2, 6))
    recurrent = derive_recurrent(np.zeros((36, 5)))
    assert recurrent == RecurrentGenotype([("tanh", 0)] * 8, range(1, 9))


def test_edges_are_ranked_by_their_softmax_and_listed_strongest_first():
    # Columns none, skip, sep. The softmax of the rows gives, by hand, e = 2.718:
    #   node 2: from 0: skip e^2 / (e^2 + 2) = 0.79; from 1: sep e^3 / (e^3 + e^3 + 1) = 0.49
    #   node 3: from 0: 1/3; from 1: 1 / (e^4 + 2) = 0.02; from 2: sep e / (e + 2) = 0.58
    # so that row 1 loses against row 0 although its largest alpha is larger, and `none`, which is
    # the strongest of row 3, makes it weak without ever being chosen.
    alphas = [[0, 2, 0], [3, 0, 3], [0, 0, 0], [4, 0, 0], [0, 0, 1]]
    found = derive(alphas, alphas, primitives=TWO_NODES)
    nodes = [
        [("skip_connect", 0), ("sep_conv_3x3", 1)],
        [("sep_conv_3x3", 2), ("skip_connect", 0)],
    ]
    assert found == Genotype(nodes, [2, 3], nodes, [2, 3])


def test_a_node_keeps_as_many_edges_as_asked_or_all_it_has():
    alphas = [[0, 2, 0], [3, 0, 3], [0, 0, 0], [4, 0, 0], [0, 0, 1]]
    one = derive(alphas, alphas, primitives=TWO_NODES, inputs_per_node=1)
    assert one.normal == ((("skip_connect", 0),), (("sep_conv_3x3", 2),))
    three = derive(alphas, alphas, primitives=TWO_NODES, inputs_per_node=3)
    assert [len(node) for node in three.normal] == [2, 3]
    assert three.normal[1] == (("sep_conv_3x3", 2), ("skip_connect", 0), ("skip_connect", 1))


def test_without_none_every_column_competes():
    alphas = np.zeros((2, 2))
    found = derive(alphas, alphas, primitives=["skip_connect", "sep_conv_3x3"])
    assert found.normal == ((("skip_connect", 0), ("skip_connect", 1)),)
    alphas[1, 1] = 1
    found = derive(alphas, alphas, primitives=["skip_connect", "sep_conv_3x3"])
    assert found.normal == ((("sep_conv_3x3", 1), ("skip_connect", 0)),)


def test_the_cells_may_differ_in_nodes_and_the_concat_list_may_be_given():
    small = np.zeros((2, 8))
    found = derive(ZEROS, small)
    assert (found.normal_concat, found.reduce_concat) == ((2, 3, 4, 5), (2,))
    assert derive(ZEROS, ZEROS, concat=[4, 5]).reduce_concat == (4, 5)
    assert derive_recurrent(np.zeros((3, 5)), concat=[2]).concat == (2,)


def test_rows_that_are_permutations_of_each_other_tie():
    source = np.random.default_rng(0)
    for _ in range(300):
        row = source.normal(size=8)
        row[0] = row.min() - 1  # `none` stays where it is and never the strongest
        alphas = np.stack([np.append(row[0], source.permutation(row[1:])) for _ in range(14)])
        kept = [[predecessor for _, predecessor in node] for node in derive(alphas, ZEROS).normal]
        assert kept == [[0, 1]] * 4


def test_very_large_alphas_do_not_overflow():
    alphas = ZEROS.copy()
    alphas[1, 4] = 1e300
    assert derive(alphas, ZEROS).normal[0] == (("sep_conv_3x3", 1), ("max_pool_3x3", 0))


def test_edges_are_numbered_by_target_then_source():
    assert [edge_offset(node) for node in range(5)] == [0, 2, 5, 9, 14]
    assert [edge_offset(node, num_inputs=1) for node in range(4)] == [0, 1, 3, 6]
    assert (num_edges(4), num_edges(8, num_inputs=1)) == (14, 36)
    for num_inputs in (1, 2, 3):
        for num_nodes in range(1, 20):
            rows = sum(num_inputs + node for node in range(num_nodes))
            assert num_edges(num_nodes, num_inputs) == rows
            assert num_nodes_of(rows, num_inputs) == num_nodes


@pytest.mark.parametrize("rows", [0, 1, 3, 13])
def test_a_number_of_rows_that_no_cell_has_is_refused(rows):
    with pytest.raises(InputError, match=rf"No cell has {rows} edges.* 2, 5, 9, 14, 20, "):
        num_nodes_of(rows)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"alphas_normal": np.zeros((13, 8))},
            "alphas_normal: No cell has 13 edges. A cell with 2",
        ),
        ({"alphas_reduce": np.zeros((0, 8))}, "alphas_reduce: No cell has 0 edges"),
        (
            {"alphas_reduce": np.zeros((14, 5))},
            r"alphas_reduce must have shape \(edges, 8\).*Received shape \(14, 5\)",
        ),
        ({"alphas_normal": np.zeros(8)}, r"Received shape \(8,\)"),
        ({"alphas_normal": [[1], [1, 2]]}, "alphas_normal must be an array of numbers: "),
        ({"alphas_normal": "alphas"}, "alphas_normal must be an array of numbers: "),
        (
            {"alphas_normal": np.where(np.eye(14, 8), np.nan, 0)},
            "alphas_normal must be finite. Received nan at edge 0, primitive 0. The search",
        ),
        ({"alphas_reduce": ZEROS + np.inf}, "alphas_reduce must be finite. Received inf"),
        ({"inputs_per_node": 0}, "inputs_per_node must be a whole number of 1 or more. Rec.*: 0"),
        (
            {"inputs_per_node": 1.5},
            "inputs_per_node must be a whole number of 1 or more. Rec.*: 1.5",
        ),
        (
            {"inputs_per_node": True},
            "inputs_per_node must be a whole number of 1 or more. Rec.*: True",
        ),
        ({"primitives": ["none"]}, "at least one of them other than 'none'. Received: .'none'"),
        ({"primitives": ["skip_connect"] * 8}, "primitives must list different names"),
        ({"primitives": "skip_connect"}, "primitives must list different names"),
        ({"primitives": list("abcdefgh")}, "Unknown primitive 'a'. Known: avg_pool_3x3, "),
        ({"concat": [6]}, "normal_concat must list intermediate nodes only, 2 to 5"),
    ],
)
def test_what_cannot_be_derived_from_is_refused(change, words):
    arguments = {"alphas_normal": ZEROS, "alphas_reduce": ZEROS, **change}
    with pytest.raises(InputError, match=words):
        derive(**arguments)


def test_recurrent_alphas_of_a_wrong_shape_are_refused():
    with pytest.raises(InputError, match="alphas: No cell has 14 edges. A cell with 1 input"):
        derive_recurrent(np.zeros((14, 5)))
    with pytest.raises(InputError, match=r"alphas must have shape \(edges, 5\)"):
        derive_recurrent(np.zeros((36, 8)))


def test_the_primitives_are_those_published():
    assert (len(CNN_PRIMITIVES), len(RNN_PRIMITIVES)) == (8, 5)
    assert CNN_PRIMITIVES[0] == RNN_PRIMITIVES[0] == "none"
