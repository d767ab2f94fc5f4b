"""Cells in which a node has no edge, as FairDARTS publishes them: the node is left out.

The rule is that of the authors' `DCOCell`: the states are the inputs and the nodes that have an
edge, an edge from anything else is passed over, and all states but the inputs are joined. The
numbers of weights are those that stand beside the cells in the authors' `genotypes.py`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import darts_tf
from darts_tf.errors import InputError
from darts_tf.genotype import Genotype, from_json, parse_text

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = Path(os.environ.get("DARTS_TF_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
CASES = GOLDEN / "variant_cases.json"

PUBLISHED = {
    # Millions of weights, and whether they count the auxiliary head.
    "FairDARTS_a": (2.83, True, """Genotype(normal=[('sep_conv_3x3', 2, 0), ('sep_conv_5x5', 2, 1),
        ('max_pool_3x3', 4, 0), ('sep_conv_3x3', 5, 0)], normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 2, 0), ('avg_pool_3x3', 2, 1), ('avg_pool_3x3', 3, 0),
        ('dil_conv_5x5', 3, 1), ('avg_pool_3x3', 4, 0), ('sep_conv_5x5', 4, 1),
        ('skip_connect', 5, 0), ('skip_connect', 5, 1)], reduce_concat=range(2, 6))"""),
    "FairDARTS_c": (2.59, False, """Genotype(normal=[('max_pool_3x3', 2, 0), ('sep_conv_5x5', 2, 1),
        ('dil_conv_3x3', 4, 0), ('dil_conv_5x5', 4, 2), ('skip_connect', 5, 3),
        ('sep_conv_3x3', 5, 0)], normal_concat=range(2, 6),
        reduce=[('dil_conv_3x3', 2, 1), ('dil_conv_5x5', 2, 0), ('dil_conv_3x3', 3, 0),
        ('sep_conv_3x3', 3, 1), ('sep_conv_5x5', 4, 0), ('sep_conv_5x5', 4, 3),
        ('sep_conv_5x5', 5, 0), ('skip_connect', 5, 1)], reduce_concat=range(2, 6))"""),
    "FairDARTS_e": (3.12, True, """Genotype(normal=[('sep_conv_3x3', 2, 0), ('sep_conv_3x3', 2, 1),
        ('dil_conv_3x3', 4, 1), ('dil_conv_3x3', 4, 2), ('dil_conv_3x3', 5, 0),
        ('dil_conv_5x5', 5, 1)], normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 2, 1), ('max_pool_3x3', 2, 0), ('max_pool_3x3', 3, 1),
        ('max_pool_3x3', 3, 0), ('sep_conv_5x5', 4, 1), ('max_pool_3x3', 4, 0),
        ('avg_pool_3x3', 5, 0), ('dil_conv_5x5', 5, 1)], reduce_concat=range(2, 6))"""),
    "FairDARTS_g": (3.375, True, """Genotype(normal=[('sep_conv_3x3', 2, 0), ('sep_conv_3x3', 2, 1),
        ('skip_connect', 4, 3), ('sep_conv_5x5', 4, 1), ('dil_conv_3x3', 5, 0),
        ('sep_conv_3x3', 5, 1)], normal_concat=range(2, 6),
        reduce=[('avg_pool_3x3', 2, 1), ('skip_connect', 2, 0), ('skip_connect', 3, 2),
        ('max_pool_3x3', 3, 1), ('sep_conv_5x5', 4, 3), ('max_pool_3x3', 4, 0),
        ('dil_conv_3x3', 5, 1), ('dil_conv_3x3', 5, 4)], reduce_concat=range(2, 6))"""),
}  # fmt: skip
TEXT = PUBLISHED["FairDARTS_c"][2]
FULL = [("skip_connect", 0), ("skip_connect", 1)]


def joined_by_the_authors(triples):
    """Edges by node, and the nodes that are joined, by the rule of `DCOCell`."""
    states = {0: [], 1: []}
    for node in dict.fromkeys(node for _, node, _ in triples):
        states[node] = [(op, j) for op, to, j in triples if to == node and j in states]
    nodes = list(states)[2:]
    return {node: states[node] for node in nodes}, nodes


def check_as_the_authors(genotype, reduction, triples):
    edges, nodes = joined_by_the_authors(triples)
    cell, concat = genotype.cell(reduction)
    assert list(concat) == nodes
    assert {n: list(node) for n, node in enumerate(cell, 2) if node} == edges


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_are_read_as_the_authors_run_them(name):
    text = PUBLISHED[name][2]
    genotype = parse_text(f"{name} = {text}")
    fields = eval(text, {"__builtins__": {}, "range": range, "Genotype": dict})
    check_as_the_authors(genotype, False, fields["normal"])
    check_as_the_authors(genotype, True, fields["reduce"])
    assert len(genotype.normal) == 4 and genotype.normal[1] == ()
    assert from_json(genotype.to_json()) == parse_text(genotype.to_text()) == genotype


@pytest.mark.skipif(not CASES.is_file(), reason=f"no published cases at {CASES}")
def test_every_sparse_cell_that_the_authors_derive_is_read():
    for case in json.loads(CASES.read_text())["fair_derive"]:
        for rule in ("threshold_sparse", "threshold_edge"):
            genotype = Genotype(case[rule], range(2, 6), FULL, [2])
            check_as_the_authors(genotype, False, [tuple(edge) for edge in case[rule]])


def test_the_last_nodes_may_be_missing_where_the_concat_list_is_of_all():
    triples = [("sep_conv_3x3", 3, 0), ("skip_connect", 3, 2)]
    genotype = Genotype(triples, range(2, 6), [FULL, []], [3, 2])
    assert genotype.normal == ((), (("sep_conv_3x3", 0),)) and genotype.normal_concat == (3,)
    assert genotype.reduce == (tuple(FULL),) and genotype.reduce_concat == (2,)
    with pytest.raises(InputError, match="normal_concat must list .* 2 to 3. Received node 5"):
        Genotype(triples, [3, 5], FULL, [2])


def test_a_node_that_only_reads_such_a_node_is_one_itself():
    nodes = [FULL, [], [("skip_connect", 3)], [("skip_connect", 4), ("sep_conv_3x3", 2)]]
    genotype = Genotype(nodes, range(2, 6), FULL, [2])
    assert genotype.normal == (tuple(FULL), (), (), (("sep_conv_3x3", 2),))
    assert genotype.normal_concat == (2, 5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_the_published_numbers_of_weights(name):
    millions, auxiliary, text = PUBLISHED[name]
    network = darts_tf.EvaluationNetwork(parse_text(text), auxiliary=auxiliary)
    weights = network.count_weights()
    if auxiliary:
        weights = sum(int(np.prod(v.shape)) for v in network.named_parameters().values())
    # The authors cut some figures and round others.
    assert abs(weights / 1e6 - millions) < 0.01


def test_a_network_computes_what_it_does_without_the_node():
    full = [("max_pool_3x3", 0), ("sep_conv_3x3", 1)]
    gap = Genotype([full, [], [("sep_conv_3x3", 2), ("skip_connect", 3)]], [2, 3, 4], full, [2])
    none = Genotype([full, [("sep_conv_3x3", 2)]], [2, 3], full, [2])
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    networks = [darts_tf.EvaluationNetwork(g, 3, 2, 1, image_shape=(8, 8, 3)) for g in (gap, none)]
    networks[1].set_weights(networks[0].get_weights())
    outputs = [network(images, training=True).numpy() for network in networks]
    assert np.ptp(outputs[0]) > 0
    np.testing.assert_array_equal(*outputs)


def test_such_a_network_is_saved_and_loaded(tmp_path):
    network = darts_tf.EvaluationNetwork(parse_text(TEXT), 3, 2, 3, image_shape=(8, 8, 3))
    network.save(tmp_path / "model.keras")
    loaded = darts_tf.load_model(tmp_path / "model.keras")
    assert loaded.genotype == network.genotype == parse_text(TEXT)


def test_the_node_is_not_drawn(tmp_path):
    darts_tf.plot_genotype(parse_text(TEXT), tmp_path / "cell.dot")
    normal = (tmp_path / "cell.dot").read_text().split("subgraph")[1]
    # Nodes 0, 2 and 3 of the picture are 2, 4 and 5; v0_0 and v0_1 are the inputs.
    labels = [f'v0_{i} [label="{name}"' for i, name in enumerate(("c_{k-2}", "c_{k-1}", 0, 2, 3))]
    assert all(label in normal for label in labels) and 'label="1"' not in normal
    assert normal.count("->") == 5 + 3
    assert 'v0_2 -> v0_3 [label="dil_conv_5x5"]' in normal
    darts_tf.plot_genotype(parse_text(TEXT), tmp_path / "cell.svg")
