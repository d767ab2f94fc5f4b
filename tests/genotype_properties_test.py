"""Genotypes and alphas in files, thousands of them damaged: read as they say, or refused."""

import ast
import contextlib
import io
import json
import os
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from darts_tf import genotype
from darts_tf.errors import InputError
from darts_tf.genotype import CNN_EVALUATION_PRIMITIVES, CNN_PRIMITIVES, RNN_PRIMITIVES, alpha_file
from darts_tf.genotype.json_form import read_json
from tests.mutations import mutated, mutated_json, repeatable

NAMES = [(kind, name) for kind in ("cnn", "rnn") for name in genotype.zoo.names(kind)]
ZOO = [genotype.zoo.genotype(name, kind) for kind, name in NAMES]
TRIPLES = genotype.Genotype(
    [[("skip_connect", 0)], [("max_pool_3x3", 0), ("conv_7x1_1x7", 2), ("skip_connect", 2)]],
    [3],
    [[("sep_conv_7x7", 1)]],
    [2],
)
JSON_FILES = tuple(
    found.to_json({"seed": 3, "loss": 0.25, "of": ["a", None]}).encode()
    for found in (ZOO[0], ZOO[-1], TRIPLES)
)
TEXT_FILES = tuple(f"{found.to_text()}".encode() for found in (ZOO[0], ZOO[-1], TRIPLES)) + (
    b"DARTS = " + ZOO[1].to_text().encode(),
)
WORDS = tuple(name.encode() for name in (*CNN_PRIMITIVES, "tanh", "range(2, 6)", "normal_concat"))
FLAT = [["sep_conv_3x3", 1], ["sep_conv_3x3", 0]]
JSON_WORDS = ("none", "tanh", "sep_conv_7x7", FLAT, [*FLAT, *FLAT], [["skip_connect", 2, 0]])


# ------------------------------------------------------------------------------------ genotypes


@st.composite
def cells(draw, inputs, names, edges):
    nodes = [
        [
            (draw(st.sampled_from(names)), draw(st.integers(0, node + inputs - 1)))
            for _ in range(draw(edges))
        ]
        for node in range(draw(st.integers(1, 6)))
    ]
    numbers = list(range(inputs, inputs + len(nodes)))
    concat = draw(st.lists(st.sampled_from(numbers), min_size=1, unique=True))
    return nodes, concat


@st.composite
def genotypes(draw):
    if draw(st.booleans()):
        nodes, concat = draw(cells(1, RNN_PRIMITIVES[1:], st.just(1)))
        return genotype.RecurrentGenotype([node[0] for node in nodes], concat)
    names = (*CNN_PRIMITIVES[1:], *CNN_EVALUATION_PRIMITIVES)
    edges = st.just(2) if draw(st.booleans()) else st.integers(0, 4)
    try:
        return genotype.Genotype(*draw(cells(2, names, edges)), *draw(cells(2, names, edges)))
    except InputError as error:  # All nodes of a concat list may have lost their edges.
        assume("has an edge that comes from" not in str(error))
        raise


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@repeatable(400)
@given(found=genotypes(), provenance=st.dictionaries(st.text(), values, max_size=3))
def test_any_genotype_comes_back_from_each_form_as_it_was(found, provenance, tmp_path):
    path = tmp_path / "genotype.json"
    genotype.save(found, path, provenance)
    assert genotype.load(path) == found
    again = genotype.load_provenance(path)
    assert again == provenance and json.dumps(again) == json.dumps(
        dict(sorted(provenance.items())), sort_keys=True
    )
    assert type(found).from_json(found.to_json()) == found
    assert genotype.parse_text(found.to_text()) == found
    path.write_text(found.to_text())
    assert genotype.load(path) == found


def said(cell, concat):
    """Edges (primitive, node, predecessor) by node, of any form in which a cell may be given, and
    the concat list: without nodes that have no edge."""
    flat = bool(cell[0]) and isinstance(cell[0][0], str)
    if flat and (len(cell[0]) == 2 or isinstance(cell[0][2], float)):
        triples = [(edge[0], 2 + place // 2, edge[1]) for place, edge in enumerate(cell)]
    elif flat:
        triples = [tuple(triple) for triple in cell]
    else:
        triples = [(edge[0], 2 + i, edge[1]) for i, edges in enumerate(cell) for edge in edges]
    states = {0, 1}
    for node in sorted({node for _, node, _ in triples}):
        if any(to == node and j in states for _, to, j in triples):
            states.add(node)
    triples = sorted((t for t in triples if t[2] in states), key=lambda triple: triple[1])
    concat = sorted(states)[2:] if concat is None else concat
    return tuple(triples), [node for node in concat if node in states]


def check_agrees(found, fields):
    """A genotype says what the fields of its file say."""
    if isinstance(found, genotype.RecurrentGenotype):
        assert [list(edge) for edge in found.recurrent] == [
            list(e[:2]) for e in fields["recurrent"]
        ]
        concat = fields.get("concat", range(1, 1 + len(found.recurrent)))
        assert list(found.concat) == list(concat)
        return
    for name, reduction in (("normal", False), ("reduce", True)):
        edges, concat = said(fields[name], fields.get(f"{name}_concat"))
        assert found.edges(reduction) == edges
        assert list(found.cell(reduction)[1]) == concat


def check_file(path, content, fields_of):
    """A damaged file is refused in words that name it, or read as an independent reader does."""
    path.write_bytes(content)
    try:
        found = genotype.load(path)
    except InputError as error:
        assert str(path) in str(error) and len(str(error)) < 1500
        return False
    said_by_others = fields_of(content.decode("utf-8-sig"))
    assert said_by_others
    for fields in said_by_others[:-1]:
        try:
            return check_agrees(found, fields) or True
        except (AssertionError, LookupError, TypeError):
            continue
    check_agrees(found, said_by_others[-1])
    assert genotype.from_json(found.to_json()) == genotype.parse_text(found.to_text()) == found
    return True


def prefixes(text, opening, closing, read):
    """What reads of the text from each opening to the first closing at which it can be read."""
    found = []
    for start in (match.start() for match in re.finditer(opening, text)):
        for end in (match.end() for match in re.finditer(closing, text[start:])):
            with contextlib.suppress(SyntaxError, ValueError, TypeError, NameError, AttributeError):
                found.append(read(text[start : start + end]))
                break
    return found


def fields_of_json(text):
    """The fields of JSON by its own reader, or of a dictionary by Python's."""
    with contextlib.suppress(ValueError):
        return [json.loads(text)]
    return prefixes(text, r"\{", r"\}", ast.literal_eval)


@repeatable(2000)
@given(content=mutated(JSON_FILES, WORDS) | mutated_json(JSON_FILES, JSON_WORDS))
def test_a_damaged_json_file_is_read_as_it_says_or_refused(content, tmp_path):
    if not check_file(tmp_path / "g.json", content, fields_of_json):
        return
    provenance = genotype.load_provenance(tmp_path / "g.json")
    with contextlib.suppress(InputError):  # Plain fields have none.
        kind, fields, provenance = read_json(content.decode("utf-8-sig"))
        assert provenance == json.loads(content.decode("utf-8-sig")).get("provenance", {})
    # What was read can be written.
    assert genotype.load_provenance(tmp_path / "g.json") == provenance
    genotype.save(genotype.load(tmp_path / "g.json"), tmp_path / "g.json", provenance)


def fields_of_text(text):
    """The fields of each published form in a text, by Python itself."""

    def genotype_of(*unnamed, **named):
        count = len(unnamed) + len(named)
        names = ("recurrent", "concat")
        if count == 4:
            names = ("normal", "normal_concat", "reduce", "reduce_concat")
        return {**dict(zip(names, unnamed, strict=False)), **named}

    known = {"__builtins__": {}, "range": range, "Genotype": genotype_of}
    return prefixes(text, r"Genotype\s*\(", r"\)", lambda part: eval(part, known))


@repeatable(2000)
@given(content=mutated(TEXT_FILES, WORDS))
def test_a_damaged_text_file_is_read_as_it_says_or_refused(content, tmp_path):
    check_file(tmp_path / "g.txt", content, fields_of_text)


lines = st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=20))


@repeatable(200)
@given(
    found=genotypes(),
    before=lines,
    after=lines,
    name=st.from_regex(r"[A-Z]\w{0,8}", fullmatch=True),
)
def test_a_genotype_is_found_whatever_lines_stand_around_it(found, before, after, name, tmp_path):
    before = [line.replace("\r", "") for line in before]
    for form in (found.to_text(), repr(found), str(fields_of_text(found.to_text())[0])):
        text = "\n".join([*before, f"{name} = {form}", *after])
        assert genotype.parse_text(text) == genotype.parse_text(text, name) == found
        assert genotype.parse_text(text, -1) == found


@repeatable(500)
@given(
    name=mutated(tuple(name.encode() for _, name in NAMES)), kind=st.sampled_from("cnn rnn".split())
)
def test_a_damaged_name_is_not_taken_for_another(name, kind):
    name = os.fsdecode(name)
    try:
        found = genotype.load_genotype(name, kind)
    except InputError as error:
        assert "genotype" in str(error) and len(str(error)) < 1500
    else:
        assert name in genotype.zoo.names(kind) and found == genotype.zoo.genotype(name, kind)


# --------------------------------------------------------------------------------------- alphas


def archive(arrays, save=np.savez):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(contents, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, content in contents.items():
            out.writestr(name, content)
    return file.getvalue()


EPOCHS = {
    "epoch": np.arange(3),
    "normal": np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32),
    "reduce": np.random.default_rng(1).normal(size=(3, 2, 4)),
}
NPZ = (archive(EPOCHS), archive(EPOCHS, np.savez_compressed))
HEADER_WORDS = (
    b"|O",
    b"<f8",
    b"<f2",
    b">f4",
    b"<U9",
    b"<c8",
    b"(3, 2, 4)",
    b"(24,)",
    b"()",
    b"(4,",
)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
        assert one[name].tobytes() == other[name].tobytes()


@st.composite
def damaged_archive(draw):
    """The bytes of an archive damaged as a file, or one made well of a damaged array."""
    if draw(st.booleans()):
        return draw(mutated(NPZ))
    contents = members(NPZ[0])
    name = draw(st.sampled_from(list(contents)))
    # The header is the first 128 bytes.
    head, rest = contents[name][:128], contents[name][128:]
    contents[name] = draw(mutated((head,), HEADER_WORDS)) + draw(mutated((rest,)))
    return zipped(contents, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))


@repeatable(1500)
@given(content=damaged_archive())
@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy's, of headers of Python 2
def test_damaged_alphas_are_read_as_numpy_reads_them_or_refused(content, tmp_path):
    path = tmp_path / "alphas.npz"
    path.write_bytes(content)
    try:
        arrays = genotype.load_alphas(path)
    except InputError as error:
        assert str(path) in str(error) and len(str(error)) < 500
        return
    with np.load(io.BytesIO(content), allow_pickle=False) as expected:
        same(arrays, {name: expected[name] for name in expected.files})
    for name in ("normal", "reduce"):
        if name in arrays and arrays[name].ndim == 3 and len(arrays[name]):
            check_derived(arrays[name][0])


def check_derived(alphas):
    """What is derived of alphas follows from their largest columns, or they are refused."""
    try:
        found = genotype.derive(
            alphas, alphas, primitives=("none", "tanh", "a", "b")[: len(alphas)]
        )
    except InputError:
        return
    raise AssertionError(f"names that are no primitives were accepted: {found}")


@repeatable(300)
@given(
    st.dictionaries(
        st.sampled_from(["epoch", "normal", "reduce", "recurrent"]),
        st.tuples(
            st.sampled_from([np.float32, np.float64, np.int64, np.float16, np.bool_]),
            st.lists(st.integers(0, 4), max_size=3),
            st.integers(0, 2**32 - 1),
        ),
        min_size=1,
    ),
    st.sampled_from([np.savez, np.savez_compressed]),
)
def test_any_arrays_come_back_bit_for_bit(tmp_path, described, save):
    arrays = {}
    for name, (dtype, shape, seed) in described.items():
        size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        content = np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()
        arrays[name] = np.frombuffer(content, np.uint8).copy()
        if dtype is np.bool_:
            arrays[name] &= 1
        arrays[name] = arrays[name].view(dtype).reshape(shape)
    path = tmp_path / "alphas.npz"
    path.write_bytes(archive(arrays, save))
    same(genotype.load_alphas(path), arrays)


class Payload:
    """What, unpickled, makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.folder),)


def test_alphas_with_code_in_them_are_refused_and_run_nothing(tmp_path):
    path, made = tmp_path / "alphas.npz", tmp_path / "made"
    payload = np.array([Payload(made)], dtype=object)
    np.savez(path, epoch=np.arange(1), normal=payload)
    with np.load(path, allow_pickle=True) as arrays:
        _ = arrays["normal"]
    assert made.is_dir()  # the payload works where it is let
    made.rmdir()
    with pytest.raises(InputError, match="array 'normal' holds object, not numbers"):
        genotype.load_alphas(path)
    bare = members(path.read_bytes())["normal.npy"][128:]
    path.write_bytes(zipped({"epoch.npy": bare}))
    with pytest.raises(InputError, match="is not an .npz file of NumPy arrays"):
        genotype.load_alphas(path)
    path.write_bytes(bare)
    with pytest.raises(InputError, match="is not an .npz file of NumPy arrays"):
        genotype.load_alphas(path)
    assert not made.exists()


def npy(shape, content=b"", dtype="<f8"):
    """An .npy file that declares what its content need not be."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"normal.npy": npy((10**12,))}, r"says that it has shape \(1000000000000,\), but holds 0"),
        ({"normal.npy": npy((2**62, 2**62))}, "says that it has shape .*but holds 0 bytes"),
        ({"normal.npy": npy((-1,), bytes(8))}, r"shape \(-1,\), but holds 8 bytes"),
        ({"normal.npy": npy((1,), bytes(9))}, r"shape \(1,\), but holds 9 bytes"),
        ({"normal.npy": npy((1,), bytes(4 * 7), "<U7")}, "holds <U7, not numbers"),
        (
            {f"{n}.npy": npy((), bytes(8)) for n in range(1001)},
            "holds 1001 arrays, and at most 1000",
        ),
        ({"normal.npy": bytes(30 * 2**20)}, "its arrays unpack to more than 1048576 bytes"),
    ],
    ids=["huge", "overflow", "negative", "longer", "text", "many", "bomb"],
)
def test_memory_is_taken_for_what_is_there_only(contents, words, tmp_path, monkeypatch):
    monkeypatch.setattr(alpha_file, "LARGEST", 2**20)
    path = tmp_path / "alphas.npz"
    path.write_bytes(zipped(contents, zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    with pytest.raises(InputError, match=words):
        genotype.load_alphas(path)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = tmp_path / "alphas.npz"
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("normal.npy", npy((), bytes(8)))
        file.writestr("normal.npy", npy((), bytes(8)))
    with pytest.raises(InputError, match="it holds 'normal' twice"):
        genotype.load_alphas(path)


def test_a_file_larger_than_allowed_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(alpha_file, "LARGEST", 1000)
    (tmp_path / "alphas.npz").write_bytes(bytes(1001))
    for path in (tmp_path / "alphas.npz", "/dev/zero"):
        with pytest.raises(InputError, match=rf"Alphas {path} is larger than 1000 bytes"):
            genotype.load_alphas(path)
    with pytest.raises(InputError, match="Genotype file /dev/zero is larger than 1048576 bytes"):
        genotype.load("/dev/zero")
