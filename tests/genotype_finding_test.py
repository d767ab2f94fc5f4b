"""Genotypes as people have them: in logs, in Python and YAML files, quoted, of other tools."""

import json
import re
import tracemalloc

import numpy as np
import pytest

from darts_tf.errors import InputError
from darts_tf.genotype import (
    Genotype,
    RecurrentGenotype,
    load,
    load_genotype,
    load_provenance,
    parse_text,
    zoo,
)

PAIRS = [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 2), ("dil_conv_5x5", 0)]
WANTED = Genotype(PAIRS, [2, 3], PAIRS, [2, 3])
TEXT = WANTED.to_text()
RNN = zoo.genotype("DARTS_V1", "rnn")
OTHER = zoo.genotype("DARTS_V1")
LINES = TEXT.replace(", normal_concat", ",\n  normal_concat").replace(", reduce", ",\n  reduce")

# What stands in files of others; the genotype itself comes from `to_text`.
SURROUNDINGS = {
    "log": f"03/14 09:26:53 AM gpu device = 0\n03/14 09:26:55 AM genotype = {TEXT}\n"
    "tensor([[0.1250, 0.1251]], device='cuda:0')\n03/14 09:31:02 AM train_acc 41.3\n",
    "log that repeats it": f"genotype = {TEXT}\nvalid_acc 97.1\ngenotype = {TEXT}\n",
    "bracketed log": f"[2019-03-14 09:26:53] (search) Genotype: {TEXT}\n",
    "YAML list": f"genotypes:\n  - {TEXT}\n",
    "YAML, folded in single quotes": "cell:\n  '" + LINES.replace("'", "''") + "'\n",
    "module before it": f"gt.{TEXT}",
    "assignment to a name in a module": f"genotypes.MINE = genotypes.{TEXT}",
    "single quotes": "'" + TEXT.replace("'", '"') + "'",
    "double quotes": f'"{TEXT}"',
    "escaped quotes": '"' + TEXT.replace("'", '\\"') + '"',
    "comment": f"# 97.24 %, don't lose it\nDARTS = {TEXT}\n",
    "imports and a namedtuple": "import os\nfrom collections import namedtuple\nGenotype = "
    f"namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')\n\nMINE = {LINES}\n",
    "class and function": "class Genotype(NamedTuple):\n  normal: list\n\ndef derive():\n  return "
    f"Genotype(normal=gene, reduce=gene)\n\nMINE = {TEXT}",
    "another one commented out": f"# DARTS = {OTHER.to_text()}\nDARTS = {TEXT}",
    "only one, commented out": f"#DARTS = {TEXT}",
    "dictionary entry": f"genotypes = {{'MINE': {TEXT},\n}}",
    "JSON lines": "\n".join(json.dumps({"epoch": i, "genotype": TEXT}) for i in range(2)),
    "JSON text": json.dumps({"accuracy": 0.97, "genotype": TEXT}),
    "dataclass": repr(WANTED),
    "dictionary": str({"normal": PAIRS, "normal_concat": [2, 3], "reduce": PAIRS, "acc": {}}),
    "dictionary of nodes with weights": str(
        {
            "normal": tuple(tuple((op, j, 0.14) for op, j in PAIRS[k : k + 2]) for k in (0, 2)),
            "normal_concat": [2, 3],
            "reduce": PAIRS,
            "reduce_concat": [2, 3],
            "architecture": None,
        }
    ),
    "printed dictionary in a log": "INFO best: {'normal': " + f"{PAIRS}, 'reduce': {PAIRS}}} (1)\n",
}


@pytest.mark.parametrize("text", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_what_stands_around_a_genotype_is_passed_over(text, tmp_path):
    assert parse_text(text) == WANTED
    (tmp_path / "file").write_text(text)
    assert load(tmp_path / "file") == WANTED == load_genotype(tmp_path / "file")
    if "(" in text:
        assert load_genotype(text, "cnn") == WANTED


NORMAL = str(PAIRS)
SPELLINGS = {
    "NumPy's integers": TEXT.replace(", 0)", ", np.int64(0))").replace("(2,", "(numpy.int32(2),"),
    "NumPy's texts": TEXT.replace("'skip_connect'", "np.str_('skip_connect')"),
    "weights": TEXT.replace("', 0)", "', 0, 0.1234)").replace("', 1)", "', 1, np.float32(1e-05))"),
    "a weight of each": re.sub(r"', (\d)\)", r"', \1, -0.5)", TEXT),
    "a list of a range": TEXT.replace("range(2, 4)", "list(range(2, 4))"),
    "an array": TEXT.replace("range(2, 4)", "array([2, 3], dtype=int64)"),
    "triples": TEXT.replace(NORMAL, str([(op, 2 + i // 2, j) for i, (op, j) in enumerate(PAIRS)])),
}  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_numbers_are_read_however_they_were_printed(text):
    assert text != TEXT and parse_text(text) == WANTED


def test_weights_and_numpy_values_are_taken_from_python_too():
    weighted = [(op, np.int64(j), np.float32(0.3)) for op, j in PAIRS]
    assert Genotype(weighted, np.arange(2, 4).tolist(), [weighted[:2]], [2]).normal == WANTED.normal
    assert RecurrentGenotype([("tanh", 0, 0.7)], [1]) == RecurrentGenotype([("tanh", 0)], [1])


@pytest.mark.parametrize(
    "document",
    [
        {"normal": PAIRS, "reduce": PAIRS},
        {"normal": [PAIRS[:2], PAIRS[2:]], "reduce": PAIRS, "reduce_concat": [2, 3], "flops": 1.5},
        {"best": {"genotype": {"normal": PAIRS, "normal_concat": [2, 3], "reduce": PAIRS}}},
        [{"epoch": 1, "cells": {"reduce": PAIRS, "normal": PAIRS}}],
        {"search": json.loads(WANTED.to_json({"seed": 1}))},
    ],
)
def test_plain_fields_of_other_tools_are_read_from_json(document, tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(document))
    assert load(path) == WANTED
    assert load_provenance(path) == {}


def test_a_recurrent_cell_needs_no_concat_list_where_all_nodes_are_joined():
    assert parse_text(json.dumps({"recurrent": RNN.recurrent})) == RNN
    assert parse_text(f"cell = {{'recurrent': {list(RNN.recurrent)}}}") == RNN


# Several.

BOTH = f"import x\nMINE = {TEXT}\n\nTHEIRS = {OTHER.to_text()}\n"


def test_of_several_genotypes_a_name_or_an_index_chooses(tmp_path):
    path = tmp_path / "genotypes.py"
    path.write_text(BOTH)
    words = r"genotypes.py: The text holds 2 .* 0 is MINE in line 2, 1 is THEIRS in line 4\."
    for call in (load, load_genotype):
        with pytest.raises(InputError, match=words):
            call(path)
        for which in ("MINE", 0, -2, np.int64(0)):
            assert call(path, which=which) == WANTED
        assert call(path, which="THEIRS") == call(path, which=-1) == OTHER
    for mark, wanted in (("MINE", WANTED), ("1", OTHER), ("-1", OTHER)):
        assert load_genotype(f"{path}#{mark}", "cnn") == wanted
    for which in ("DARTS", 2, -3, None, 0.0, True):
        with pytest.raises(InputError, match="holds .*genotype.*0 is MINE in line 2, 1 is THEIRS"):
            load(path, which)
    (tmp_path / "a#b").write_text(TEXT)
    assert load_genotype(tmp_path / "a#b") == WANTED


def test_several_in_json_are_named_by_their_keys():
    text = json.dumps({"cnn": {"A": {"normal": PAIRS, "reduce": PAIRS}, "B": OTHER.to_text()}})
    with pytest.raises(InputError, match="0 is cnn.A in its JSON, 1 is cnn.B in its JSON"):
        parse_text(text)
    assert parse_text(text, "cnn.A") == WANTED and parse_text(text, "cnn.B") == OTHER


def test_a_search_log_has_one_genotype_an_epoch_and_the_last_is_chosen():
    epochs = [TEXT if epoch % 2 else OTHER.to_text() for epoch in range(50)]
    log = "".join(
        f"07/01 genotype = {text}\n07/01 valid_acc {n}\n" for n, text in enumerate(epochs)
    )
    with pytest.raises(
        InputError, match=r"holds 50 gen.*0 is genotype in line 1, .*, \.\.\., .*49 is"
    ) as error:
        parse_text(log)
    assert len(str(error.value)) < 700
    assert parse_text(log, -1) == WANTED and parse_text(log, 48) == OTHER
    # A line that was cut short counts, so that the one before it is not taken for the last.
    with pytest.raises(InputError, match="holds 2 genotypes"):
        parse_text(f"genotype = {OTHER.to_text()}\ngenotype = {TEXT[:90]}")
    with pytest.raises(InputError, match="cannot be read: .*at line 2, column "):
        parse_text(f"genotype = {OTHER.to_text()}\ngenotype = {TEXT[:90]}\n", -1)


# What is refused says what stands there.


@pytest.mark.parametrize(
    "value, words",
    [
        ("0.5", "whole number. Received: 0.5, a decimal number"),
        ("open('x')", "line 3, column 34: a function call"),
        ("os.system('x')", "a function call"),
        ("np.random.rand(3)", "a function call"),
        ("node", "a name"),
        ("gt.node", "a name"),
        ("None", "None"),
        ("True", "True or False"),
        ("1j", "an imaginary number"),
        ("1 - 1", "a calculation"),
        ("- x", "a name"),
        ("[0][0]", "a subscript"),
        ("1 if a else 2", "a condition"),
        ("a and b", "a condition"),
        ("1 == 2", "a comparison"),
        ("{'a': 1}", "a dictionary"),
        ("{1}", "a set"),
        ("b'0'", "bytes"),
        ("f'{a}'", "a text with values in it"),
        ("lambda: 1", "a function"),
        ("np.int64(0.5)", "Expected a whole number. Rec.* at line 3, column 43: a decimal"),
        ("np.float32('a')", "Expected a whole number or a decimal number. Received .*: text"),
        ("array(3)", "Expected a list. Received at line 3, column 40: a whole number"),
        ("range(0, 1, 1)", r"Expected range\(end\) or range\(start, end\)"),
    ],
)  # fmt: skip
def test_what_stands_in_the_place_of_a_number_is_said_in_words(value, words):
    text = f"# mine\nimport os\nX = Genotype(recurrent=[('tanh', {value})], concat=[1])\n"
    with pytest.raises(InputError, match=words) as error:
        parse_text(text)
    assert not re.search("Call|BinOp|Constant|Name|Attribute|UnaryOp|ast", str(error.value))


@pytest.mark.parametrize(
    "text, words",
    [
        (f"{TEXT}._replace(normal=[])", "Expected one call"),
        (f"{TEXT}[0]", "cannot be read"),
        ("{'normal': [], 'reduce': [], 'normal': []}", "gives 'normal' twice"),
        ("x = {'normal': 1, 'colour': 2}", "fields normal and reduce, or rec.*Rec.*normal, col"),
        ('{"epoch": 3, "loss": 0.5}', r"Expected a genotype as Genotype\("),
        ('{"recurrent": 3}', "recurrent must be a list"),
        ('{"format": "zip", "normal": [], "reduce": []}', 'says "format": "darts_tf.genotype"'),
        ("[[1, 2], 3]", r"Expected a genotype as Genotype\("),
        ('"hello"', r"Expected a genotype as Genotype\("),
        ("{not JSON", "is not valid JSON"),
    ],
)  # fmt: skip
def test_what_holds_no_genotype_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_text(text)


@pytest.mark.parametrize(
    "piece",
    ["Genotype(", "{'normal':", "Genotype()", "gt.", "a.", "'", "Genotype('", "{\"a\":", "[", "# "],
)  # fmt: skip
def test_long_texts_are_answered_in_linear_time(piece):
    # A quadratic scan of a mebibyte would not end within anybody's patience.
    with pytest.raises(InputError) as error:
        parse_text(piece * (2**20 // len(piece)))
    assert len(str(error.value)) < 1000


def test_memory_is_taken_for_what_is_there_only():
    text = json.dumps({"a" * 500_000: {str(number): number for number in range(20_000)}})
    tracemalloc.start()
    with pytest.raises(InputError, match="Expected a genotype"):
        parse_text(text)
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
