"""Genotypes: what is accepted, what is refused and in which words, and both text forms."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from darts_tf.errors import InputError
from darts_tf.genotype import (
    Genotype,
    RecurrentGenotype,
    from_json,
    parse_text,
    zoo,
)

PAIRS = [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 2), ("dil_conv_5x5", 0)]
NODES = (
    (("sep_conv_3x3", 0), ("skip_connect", 1)),
    (("max_pool_3x3", 2), ("dil_conv_5x5", 0)),
)
UNEVEN = ((("sep_conv_3x3", 1),), (("max_pool_3x3", 2), ("dil_conv_5x5", 0), ("skip_connect", 1)))
TRIPLES = [
    ("sep_conv_3x3", 2, 1),
    ("max_pool_3x3", 3, 2),
    ("dil_conv_5x5", 3, 0),
    ("skip_connect", 3, 1),
]
PUBLISHED_RNN = "Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('tanh', 1)], concat=range(1, 4))"
ALL = [zoo.genotype(name, kind) for kind in ("cnn", "rnn") for name in zoo.names(kind)] + [
    Genotype(UNEVEN, [3, 2], NODES, [2])
]


def make(normal=PAIRS, concat=(2, 3)) -> Genotype:
    return Genotype(normal, concat, PAIRS, (2, 3))


def refused(call, *arguments, words: str) -> None:
    """The call is answered with these words, in this order, anything between them."""
    pattern = ".*".join(re.escape(part) for part in words.split(" ... "))
    with pytest.raises(InputError, match=re.compile(pattern, re.DOTALL)):
        call(*arguments)


def test_flat_pairs_nested_nodes_and_triples_give_the_same_genotype():
    triples = [(op, 2 + index // 2, source) for index, (op, source) in enumerate(PAIRS)]
    assert make(PAIRS) == make(NODES) == make(triples) == make([list(map(list, n)) for n in NODES])
    assert make().normal == NODES
    assert hash(make()) == hash(make(NODES))


def test_triples_may_give_a_node_any_number_of_edges_and_come_in_any_order_of_nodes():
    assert make(TRIPLES).normal == UNEVEN
    assert make(TRIPLES[1:] + TRIPLES[:1]).normal == UNEVEN


def test_cell_and_edges_tell_the_two_cells_apart():
    genotype = Genotype(UNEVEN, range(2, 4), NODES, [3])
    assert genotype.cell(reduction=False) == (UNEVEN, (2, 3))
    assert genotype.cell(reduction=True) == (NODES, (3,))
    assert genotype.edges(reduction=False) == tuple(TRIPLES)


def test_an_edge_may_be_repeated_and_the_order_of_edges_and_concat_is_kept():
    twice = [("avg_pool_3x3", 1), ("avg_pool_3x3", 1), ("skip_connect", 1), ("skip_connect", 0)]
    genotype = make(twice, [3, 2])
    assert genotype.normal[0] == (("avg_pool_3x3", 1), ("avg_pool_3x3", 1))
    assert genotype.normal[1] == (("skip_connect", 1), ("skip_connect", 0))
    assert genotype.normal_concat == (3, 2)


def test_numpy_integers_become_plain_ones():
    genotype = make([(op, np.int64(source)) for op, source in PAIRS], [np.int32(2)])
    assert type(genotype.normal[0][0][1]) is int and type(genotype.normal_concat[0]) is int


def test_a_genotype_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().normal = ()


@pytest.mark.parametrize(
    "normal, words",
    [
        (None, "normal must be a list ... for at least one node. Received: None."),
        ("sep_conv_3x3", "normal must be a list ... Received: 'sep_conv_3x3'."),
        ([], "for at least one node. Received: []."),
        (PAIRS[:3], "normal as a flat list has two ... pairs per node. Received 3 pairs."),
        ([*PAIRS[:2], ("sep_conv_3x3", 3, 0)], "pairs only or ... triples only. Received: ["),
        ([*PAIRS[:2], 7], "pairs only or ... triples only. Received: ["),
        ([("sep_conv_3x3",)], "pairs only or ... triples only. Received: ["),
        ([NODES[0], 4], "Normal cell, node 3: every node needs a list ... Received: 4."),
        ([NODES[0], [4]], "Normal cell, node 3, edge 1: expected a ... pair. Received: 4."),
        ([[("skip_connect", 0, 1)]], "node 2, edge 1: expected a ... pair. Received: ('skip_con"),
        (
            [("conv", 0), ("skip_connect", 1)],
            "Normal cell, node 2, edge 1: Unknown primitive 'conv'. Known: ... avg_pool_3x3, "
            "conv_7x1_1x7, dil_conv_3x3, dil_conv_5x5, max_pool_3x3, sep_conv_3x3, sep_conv_5x5, "
            "sep_conv_7x7, skip_connect.",
        ),
        (
            [("skip_connect", 0), ("none", 1)],
            "node 2, edge 2: 'none' is the absence of an edge ... Leave the edge out or choose one "
            "of max_pool_3x3, ",
        ),
        ([[("skip_connect", True)]], "the predecessor must be a whole number. Received: True."),
        (
            [[("skip_connect", 0.0)]],
            "the predecessor must be a whole number. Received: 0.0, a decimal number.",
        ),
        ([[("skip_connect", "0")]], "the predecessor must be a whole number. Received: '0'."),
        (
            [NODES[0], [("skip_connect", 0), ("sep_conv_3x3", 4)]],
            "Normal cell, node 3, edge 2: a node reads earlier nodes only, here 0 to 2. Received: "
            "('sep_conv_3x3', 4).",
        ),
        ([[("skip_connect", 2)]], "node 2, edge 1: a node reads earlier nodes only, here 0 to 1."),
        ([[("skip_connect", -1)]], "here 0 to 1. Received: ('skip_connect', -1)."),
        ([[("skip_connect", 10**5000)]], "here 0 to 1. Received: an object of type tuple."),
        (
            [("skip_connect", 1, 0)],
            "a node from 2 on, at most 1001. Received: ('skip_connect', 1, 0).",
        ),
        (
            [("skip_connect", "2", 0)],
            "from 2 on, at most 1001. Received: ('skip_connect', '2', 0).",
        ),
        ([("skip_connect", 10**9, 0)], "from 2 on, at most 1001. Received: ('skip_connect', 1000"),
        ([[], []], "Normal cell: no node of normal_concat has an edge ... normal=[[], []]"),
        ([[], [("skip_connect", 2)]], "no node of normal_concat has an edge that comes from the"),
    ],
)
def test_a_cell_that_is_none_is_refused(normal, words):
    refused(make, normal, words=words)


def test_the_reduction_cell_is_named_in_its_errors():
    bad = [("skip_connect", 0), ("skip_connect", 3)]
    refused(Genotype, PAIRS, [2], bad, [2], words="Reduction cell, node 2, edge 2: ... 0 to 1.")
    refused(Genotype, PAIRS, [2], PAIRS, [4], words="reduce_concat must list ... Received node 4.")


@pytest.mark.parametrize(
    "concat, words",
    [
        ([], "normal_concat must list at least one of the nodes 2 to 3. Received: []."),
        (None, "at least one of the nodes 2 to 3. Received: None."),
        ("23", "at least one of the nodes 2 to 3. Received: '23'."),
        ([2, 4], "intermediate nodes only, 2 to 3. Received node 4."),
        ([1, 2], "intermediate nodes only, 2 to 3. Received node 1."),
        ([2.0], "intermediate nodes only, 2 to 3. Received node 2.0."),
        ([True], "intermediate nodes only, 2 to 3. Received node True."),
        ([2, 2], "normal_concat lists node 2 twice. List every node at most once."),
        (range(2, 10**30), "intermediate nodes only, 2 to 3. Received node 4."),
    ],
)
def test_a_concat_list_that_does_not_fit_is_refused(concat, words):
    refused(make, PAIRS, concat, words=words)


@pytest.mark.parametrize(
    "recurrent, concat, words",
    [
        ([], [1], "recurrent must be a list"),
        (
            [("tanh", 1)],
            [1],
            "Recurrent cell, node 1: a node reads earlier nodes only, here 0 to 0.",
        ),
        ([("gelu", 0)], [1], "Unknown primitive 'gelu'. Known: identity, relu, sigmoid, tanh."),
        ([("none", 0)], [1], "'none' is the absence of an edge"),
        ([("tanh", 0)], [0], "concat must list intermediate nodes only, 1 to 1. Received node 0."),
        ([("tanh", 0)], [], "concat must list at least one of the nodes 1 to 1."),
        ([[("tanh", 0)]], [1], "node 1: expected a (primitive, predecessor) pair."),
    ],
)
def test_a_recurrent_cell_that_is_none_is_refused(recurrent, concat, words):
    refused(RecurrentGenotype, recurrent, concat, words=words)


def test_the_room_does_not_import_tensorflow():
    code = "import sys, darts_tf.genotype; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# JSON.


@pytest.mark.parametrize("genotype", ALL)
def test_json_comes_back_as_it_was(genotype):
    text = genotype.to_json({"epoch": 3, "alphas": [0.5, None, {"a": "ä"}]})
    assert from_json(text) == genotype == type(genotype).from_json(text)
    assert text.endswith("}\n")
    assert text == from_json(text).to_json({"alphas": [0.5, None, {"a": "ä"}], "epoch": 3})


def test_json_has_one_line_per_node():
    assert make(UNEVEN).to_json({"seed": 1}) == (
        "{\n"
        '  "format": "darts_tf.genotype",\n'
        '  "version": 1,\n'
        '  "kind": "cnn",\n'
        '  "normal": [\n'
        '    [["sep_conv_3x3", 1]],\n'
        '    [["max_pool_3x3", 2], ["dil_conv_5x5", 0], ["skip_connect", 1]]\n'
        "  ],\n"
        '  "normal_concat": [2, 3],\n'
        '  "reduce": [\n'
        '    [["sep_conv_3x3", 0], ["skip_connect", 1]],\n'
        '    [["max_pool_3x3", 2], ["dil_conv_5x5", 0]]\n'
        "  ],\n"
        '  "reduce_concat": [2, 3],\n'
        '  "provenance": {\n'
        '    "seed": 1\n'
        "  }\n"
        "}\n"
    )


def edited(**changes) -> str:
    document = json.loads(make().to_json())
    document.update(changes)
    return json.dumps({name: value for name, value in document.items() if value != "DELETE"})


@pytest.mark.parametrize(
    "text, words",
    [
        (b"{}", "A genotype is read from text. Received: bytes."),
        ("", "The text is empty. Expected a genotype as JSON or as Genotype(...)."),
        (" \n", "The text is empty."),
        (" " * (2**20 + 1), "has 1048577 characters; a genotype has at most 1048576."),
        (
            make().to_json()[:100],
            "not valid JSON: ... (line 6, column 7). Was the file cut short or edited?",
        ),
        ("[1, 2]", "A genotype is a JSON object. Received: [1, 2]."),
        ("null", "A genotype is a JSON object. Received: None."),
        ("[" * 10**5, "nested too deeply"),
        ("1" * 10**4, "not valid JSON"),
        ('{"version": NaN}', "holds NaN, which JSON does not have"),
        ('{"kind": 1, "kind": 1}', "gives 'kind' twice. Give it once."),
        ("{}", 'A genotype says "format": "darts_tf.genotype". Received: None.'),
        (edited(format="zip"), "Received: 'zip'. Is this another kind of file?"),
        (edited(version=2), "reads version 1 ... Received version 2. A newer version needs"),
        (edited(version="1"), "Received version '1'."),
        (edited(version=True), "Received version True."),
        (edited(kind="gnn"), "Unknown kind of genotype 'gnn'. Known: cnn, rnn."),
        (edited(kind=["cnn"]), "Unknown kind of genotype ['cnn']. Known: cnn, rnn."),
        (edited(kind="rnn"), "The rnn genotype lacks recurrent, concat. Expected: format, "),
        (edited(normal="DELETE"), "The cnn genotype lacks normal. Expected: "),
        (edited(colour=1), "The cnn genotype holds 'colour', which the format does not have."),
        (edited(provenance=[1]), "provenance must be a JSON object. Received: [1]."),
        (edited(normal=[["conv", 0], ["conv", 1]]), "node 2, edge 1: Unknown primitive 'conv'."),
        (edited(normal={"a": 1}), "normal must be a list"),
        (edited(normal_concat=[9]), "Received node 9."),
    ],
)
def test_json_that_is_no_genotype_is_refused(text, words):
    refused(from_json, text, words=words)


def test_provenance_is_optional_in_a_file_written_by_hand():
    assert from_json(edited(provenance="DELETE")) == make()


@pytest.mark.parametrize(
    "provenance, words",
    [
        ([1], "provenance must be a mapping of names to JSON values. Received: list."),
        ({"loss": float("nan")}, "provenance must hold JSON values only"),
        ({"alphas": np.zeros(2)}, "provenance must hold JSON values only"),
        ({1: 2, "a": 3}, "provenance must hold JSON values only"),
    ],
)
def test_provenance_that_json_cannot_hold_is_refused(provenance, words):
    refused(make().to_json, provenance, words=words)


def test_reading_one_kind_as_the_other_is_refused():
    text = zoo.genotype("DARTS_V1", "rnn").to_json()
    refused(Genotype.from_json, text, words="Expected a Genotype. Received a RecurrentGenotype;")


# The published text form.


@pytest.mark.parametrize("genotype", ALL)
def test_the_published_text_comes_back_as_it_was(genotype):
    assert parse_text(genotype.to_text()) == genotype
    assert parse_text(f"DARTS = {genotype.to_text()}\n") == genotype
    assert parse_text(f"11/05 09:12:01 AM genotype = {genotype.to_text()}  # epoch 49") == genotype


def test_the_text_is_written_as_published():
    assert make(PAIRS, [2, 3]).to_text() == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('max_pool_3x3', 2), "
        "('dil_conv_5x5', 0)], normal_concat=range(2, 4), reduce=[('sep_conv_3x3', 0), "
        "('skip_connect', 1), ('max_pool_3x3', 2), ('dil_conv_5x5', 0)], "
        "reduce_concat=range(2, 4))"
    )
    assert parse_text(PUBLISHED_RNN).to_text() == PUBLISHED_RNN


def test_the_text_has_triples_where_a_node_has_not_two_edges_and_a_list_where_concat_has_gaps():
    text = Genotype(UNEVEN, [3, 2], NODES, [3]).to_text()
    assert text == (
        "Genotype(normal=[('sep_conv_3x3', 2, 1), ('max_pool_3x3', 3, 2), ('dil_conv_5x5', 3, 0), "
        "('skip_connect', 3, 1)], normal_concat=[3, 2], reduce=[('sep_conv_3x3', 2, 0), "
        "('skip_connect', 2, 1), ('max_pool_3x3', 3, 2), ('dil_conv_5x5', 3, 0)], "
        "reduce_concat=range(3, 4))"
    )


def test_text_may_be_positional_nested_and_over_several_lines():
    text = """Genotype(
        [[('sep_conv_3x3', 1)],  # a node with one edge
         (('max_pool_3x3', 2), ('dil_conv_5x5', 0), ["skip_connect", 1])],
        range(2, 4), normal_concat_is_above = 1)"""
    refused(parse_text, text, words="takes normal, normal_concat, reduce, reduce_concat or")
    text = text.replace("normal_concat_is_above = 1", "reduce=[('skip_connect', 2, 0)],\n"
                        "reduce_concat=[2]")  # fmt: skip
    assert parse_text(text) == Genotype(UNEVEN, [2, 3], [[("skip_connect", 0)]], [2])
    assert parse_text("Genotype([('tanh', 0)], (1,))") == RecurrentGenotype([("tanh", 0)], [1])


def test_range_with_one_number_counts_from_zero():
    refused(parse_text, "Genotype([('tanh', 0)], range(2))", words="Received node 0.")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "The text is empty."),
        (None, "A genotype is read from text. Received: NoneType."),
        ("x" * (2**20 + 1), "has 1048577 characters"),
        ("hello", "Expected a genotype as Genotype(normal=[...], ...). Received: 'hello'."),
        ("import os\nGenotype()", "each once. Received: 0 without a name and by name none."),
        ("class Genotype(tuple):", "Expected a genotype as Genotype("),
        ("Genotype(normal=[('a', 1)", "cannot be read: ... at line 1, column ... copied whole?"),
        ("Genotype(\\)", "holds the character '\\\\', which no genotype has."),
        ("Genotype(1 + 1)", "holds the character '+'"),
        ("Genotype(1 - 1, 2)", "Received at line 1, column 10: a calculation."),
        ("Genotype().x", "Expected one call, Genotype(...), and nothing after it."),
        ("Genotype()()", "cannot be read: "),
        ("Genotype()\nGenotype()", "holds 2 genotypes. Say which ... 1 is that in line 2."),
        ("Genotype()", "each once. Received: 0 without a name and by name none."),
        ("Genotype(recurrent=[])", "Received: 0 without a name and by name recurrent."),
        ("Genotype([], [], [], [], [])", "Received: 5 without a name"),
        ("Genotype([], recurrent=[])", "Received: 1 without a name and by name recurrent."),
        ("Genotype([], concat=[], concat=[])", "1 without a name and by name concat, concat."),
        ("Genotype(open('x'), [])", "holds only lists, ... at line 1, column 10: a function call."),
        ("Genotype([('tanh', 0.5)], [1])", "whole number. Received: 0.5, a decimal number."),
        ("Genotype([('tanh', True)], [1])", "column 20: True or False."),
        ("Genotype([('tanh', -1)], [1])", "here 0 to 0. Received: ('tanh', -1)."),
        ("Genotype([('tanh', -'a')], [1])", "decimal number. Received at line 1, column 21: text."),
        ("Genotype([('tanh', 0)], range(1, 1000000))", "no number above 100000."),
        ("Genotype([('tanh', 0)], range(1, 3, 1))", "Expected range(end) or range(start, end)."),
        (
            "Genotype([('tanh', 0)], range('a'))",
            "Expected a whole number. Received at line 1, column 31: text.",
        ),
        ("Genotype([('tanh', 0)], range(0))", "concat must list at least one"),
        ("Genotype([('gelu', 0)], [1])", "Unknown primitive 'gelu'."),
        # Too deep for Python's parser; its words vary with the version.
        ("Genotype(" + "-" * 10**6, "cannot be read: "),
        ("Genotype(" + "-" * 4000 + "1)", "cannot be read: "),
        ("Genotype" + "()" * 10**5, "cannot be read: "),
        ("Genotype(" + "(" * 10**5, "cannot be read: "),
        ("Genotype(" + "[" * 150 + "]" * 150 + ", 1)", "Received: [[[[[[[...]]]]]]]."),
        ("Genotype(" + "1" * 10**5 + ")", "cannot be read: "),
        ("Genotype(0x" + "f" * 10**5 + ", 1)", "no number above 100000."),
    ],
)
def test_text_that_is_no_genotype_is_refused(text, words):
    refused(parse_text, text, words=words)
