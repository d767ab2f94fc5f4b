"""Every program, given wrong flags and files by the thousand: one line, exit code 1."""

import contextlib
import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from darts_tf import genotype
from darts_tf.bin import (
    benchmark,
    common,
    compare_rnn,
    devices,
    export,
    images,
    pipeline,
    plot,
    search_cnn,
    search_rnn,
    soak,
    text,
    toy_bilevel,
    train_cnn,
    train_rnn,
    verify,
    verify_cases,
    work_folder,
    workloads,
)
from darts_tf.data import Vocabulary
from darts_tf.errors import InputError
from darts_tf.training import distribution
from tests.mutations import mutated, mutated_json, repeatable
from tests.programs import run

PROGRAMS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        benchmark, compare_rnn, export, pipeline, plot, search_cnn, search_rnn, soak, toy_bilevel,
        train_cnn, train_rnn, verify,
    )
}  # fmt: skip


class Reached(BaseException):
    """A program has accepted what it was given, and would begin to compute."""


def reached(*arguments, **options):
    raise Reached


@contextlib.contextmanager
def prepared(values, *rest):
    """Writes flags.txt as a run does; the same flags are read back from it, and go on."""
    with PREPARED(values, *rest) as folder:
        again = flags.FlagValues()
        PROGRAMS[prepared.program].define_flags(again)
        again(["program", f"--flagfile={folder / 'flags.txt'}", f"--workdir={folder}"])
        if prepared.program == "pipeline":
            pipeline.settle(again)
        for name in values:
            if name != "flagfile":
                # Text tells nan and -0.0 from others.
                assert repr(again[name].value) == repr(values[name].value), name
        work_folder.check(again)
    raise Reached
    yield  # a context manager, as far as it gets


PREPARED = work_folder.prepared


@pytest.fixture
def stopped():
    """The programs, stopped where they have accepted their flags and data."""
    patch = pytest.MonkeyPatch()
    patch.setattr(work_folder, "prepared", prepared)
    patch.setattr(devices, "configure_devices", lambda *arguments, **options: None)
    patch.setattr(benchmark.subprocess, "run", reached)
    patch.setattr("darts_tf.search.toy.trajectory", reached)
    patch.setattr("darts_tf.report.plots.plot_genotype", reached)
    patch.setattr("darts_tf.report.plots.plot_alphas", reached)
    patch.setattr(verify_cases, "float64", reached)
    patch.setattr(soak, "measure", reached)
    patch.setattr(workloads, "MODES", dict.fromkeys(workloads.MODES, reached))
    patch.setattr("darts_tf.report.loading.load_model", reached)
    # The images are read once, not for each example.
    loaded = {}
    load = images.load

    def load_once(values):
        key = (values.dataset, values.data_dir, values.limit)
        if values.dataset != "digits":
            return load(values)
        if key not in loaded:
            loaded[key] = load(values)
        return loaded[key]

    patch.setattr(images, "load", load_once)
    yield
    patch.undo()


def outcome(program, *arguments):
    """0 or 1 as the program answers, None where it would begin; its words are checked."""
    out, err = io.StringIO(), io.StringIO()
    prepared.program = program
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = run(PROGRAMS[program], *arguments)
    except Reached:
        return None
    assert code in (common.DONE, common.USAGE_ERROR)
    if code == common.USAGE_ERROR:
        lines = [line for line in err.getvalue().splitlines(True) if "Hit circular" not in line]
        assert len(lines) == 1 and re.match(r"error: \S", lines[0]) and lines[0].endswith("\n")
        assert len(lines[0]) < 2100 and "Traceback" not in lines[0]
        lines[0].encode()
    return code


def flags_of(program):
    values = flags.FlagValues()
    PROGRAMS[program].define_flags(values)
    return values


NUMBERS = (
    "0", "1", "2", "3", "-1", "007", "1e3", "1.5", "nan", "-nan", "inf", "-inf", "1e309", "1e-320",
    "0x10", "1_000", "٣", "9" * 30, "-" + "9" * 30, "9" * 5000, "2147483647", "2147483648",
    "4294967296", "1000000", "1000001", "9223372036854775808", "", " ", "-", "+", "1 2", "1;2",
)  # fmt: skip
TEXTS = (
    "", " ", "x", "None", "true", "DARTS_V2", "digits", "python_topics", "text", "cifar10", "*",
    "../..", "/", "/dev/null", "/proc/self/mem", "a\nb", "a\0b", "\x1b[2J", "\udcff", "\ud800", "é",
    "a\u2028b", "\u00a0", "x" * 5000, "'", '"', "$(id)", "%s%n", "{0}", "a,b", ",", "first",
    "second_fd", "second_exact", "saved_model,tflite", "x.svg", "x.dot", "x.png", "tests:none",
    "json:dumps", "[", "s3://bucket", "1,2", "0.1,nan", "0,1e400", "-1",
    "Genotype(recurrent=[('tanh', 0)], concat=[1])", "{'normal': 1}", "Genotype(", "a#b",
)  # fmt: skip


@st.composite
def arguments(draw, program, folder):
    """A command line: what the program needs, and up to three flags with any values."""
    values = flags_of(program)
    names = [name for name in values if name not in ("flagfile", "undefok", "workdir", "output")]
    found = [f"--output={folder}/out.svg"] if "output" in values else []
    if program == "plot":
        found.append("--genotype=DARTS_V2")
    if "workdir" in values:
        found.append(f"--workdir={folder}/run")
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(names))
        value = draw(st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.text(max_size=5))
        form = draw(
            st.sampled_from(("--{0}={1}",) * 6 + ("--{0}", "--no{0}", "-{0}={1}", "{0}={1}"))
        )
        found.append(form.format(name, value))
    if draw(st.integers(0, 9)) == 0:
        found.append(draw(st.sampled_from(("x", "--", "--x", "--=", "-", "--flagfile", "--help="))))
    return found


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_any_flags_are_used_or_refused_in_a_line(program, stopped, tmp_path):
    seen = set()

    @repeatable(350)
    @given(given=arguments(program, tmp_path))
    def check(given):
        for path in (tmp_path / "run").glob("*"):
            path.unlink()
        seen.add(outcome(program, *given))

    check()
    assert {None, 1} <= seen or program == "export"
    assert not (tmp_path / "out.svg").exists()


FLAGFILES = (
    b"# A comment\n--epochs=3\n\n--learning_rate=0.1\n--order=first\n--nodes=2\n",
    b"--limit=64\r\n--batch_size=16\n// comment\n--dataset=digits\n--seed=7",
)


def test_damaged_flagfiles_are_used_or_refused_in_a_line(stopped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.flags"
    words = (
        b"--flagfile=a.flags",
        b"--flagfile=b.flags",
        b"--flagfile ",
        b"--nothing",
        b"\xef\xbb\xbf",
    )
    seen = set()

    @repeatable(700)
    @given(content=mutated(FLAGFILES, words))
    def check(content):
        for file in (tmp_path / "run").glob("*"):
            file.unlink()
        path.write_bytes(content)
        seen.add(outcome("search_cnn", f"--flagfile={path}", f"--workdir={tmp_path / 'run'}"))

    check()
    assert seen == {None, 1}


def test_flagfiles_that_never_end_are_not_read(stopped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abcdefghij":  # each named twice by the one before: 1,023 when written out
        below = chr(ord(name) + 1)
        (tmp_path / name).write_text(f"--flagfile={below}\n--flagfile={below}\n")
    (tmp_path / "k").write_text("--epochs=3\n")
    for path, words in (
        ("/dev/zero", "Flagfile /dev/zero is larger than 1048576 bytes"),
        ("a", "Flagfiles name more than 100 flagfiles"),
        ("nowhere", "Cannot read flagfile nowhere: No such file"),
    ):
        err = io.StringIO()
        for named in ((f"--flagfile={path}",), ("--flagfile", path)):
            with redirect_stderr(err):
                assert run(search_cnn, *named, f"--workdir={tmp_path / 'run'}") == 1
        assert err.getvalue().count(words) == 2


# ---------------------------------------------------------------------------- files of programs


GENOTYPES = (
    genotype.zoo.genotype("DARTS_V2").to_json({"seed": 1}).encode(),
    genotype.zoo.genotype("DARTS_V1").to_text().encode(),
)


def test_damaged_genotype_files_are_drawn_or_refused_in_a_line(tmp_path):
    # Without `stopped`: the picture is written.
    path, picture = tmp_path / "g.json", tmp_path / "cell.dot"
    seen = []

    @repeatable(500)
    @given(content=mutated(GENOTYPES) | mutated_json(GENOTYPES[:1]))
    def check(content):
        path.write_bytes(content)
        picture.unlink(missing_ok=True)
        code = outcome("plot", f"--genotype={path}", f"--output={picture}")
        assert picture.exists() == (code == 0)
        seen.append(code)

    check()
    assert set(seen) == {0, 1}


def test_damaged_alphas_are_checked_before_they_are_drawn(stopped, tmp_path):
    whole = io.BytesIO()
    np.savez(whole, epoch=np.arange(2), normal=np.zeros((2, 2, 8)), reduce=np.zeros((2, 2, 8)))
    path, seen = tmp_path / "alphas.npz", set()

    @repeatable(500)
    @given(content=mutated((whole.getvalue(),)))
    def check(content):
        path.write_bytes(content)
        seen.add(outcome("plot", f"--alphas={path}", f"--output={tmp_path / 'a.svg'}"))

    check()
    assert seen == {None, 1}


def test_damaged_texts_are_used_or_refused_in_a_line(stopped, tmp_path):
    words = b"the cat sat on the mat\n" * 40
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_bytes(words)
    command = ("--dataset=text", f"--data_dir={tmp_path}", "--batch_size=2", "--bptt=5")
    command += ("--evaluation_batch_size=2", f"--workdir={tmp_path / 'run'}")
    seen = set()

    @repeatable(300)
    @given(content=mutated((words,)), part=st.sampled_from(("train", "valid", "test")))
    def check(content, part):
        for file in (tmp_path / "run").glob("*"):
            file.unlink()
        (tmp_path / f"{part}.txt").write_bytes(content)
        seen.add(outcome("search_rnn", *command))
        (tmp_path / f"{part}.txt").write_bytes(words)

    check()
    assert seen == {None, 1}


VOCABULARY = json.dumps({"words": ["the", "cat", "<eos>", "<unk>", "ü"]}).encode()


@repeatable(1000)
@given(content=mutated((VOCABULARY,)) | mutated_json((VOCABULARY,), ("the", "a b", "<unk>")))
def test_a_damaged_vocabulary_is_read_as_it_says_or_refused(content, tmp_path):
    (tmp_path / text.VOCABULARY).write_bytes(content)
    try:
        found = text.load_vocabulary(tmp_path)
    except InputError as error:
        assert str(tmp_path) in str(error) and len(str(error)) < 1000
        return
    words = json.loads(content.decode("utf-8-sig"))["words"]
    missing = [special for special in ("<eos>", "<unk>") if special not in words]
    assert list(found.words) == words + missing


@repeatable(300)
@given(words=st.lists(st.text(min_size=1), unique=True))
def test_any_vocabulary_comes_back_as_it_was(words, tmp_path):
    try:
        vocabulary = Vocabulary(words)
    except InputError:
        return
    text.save_vocabulary(tmp_path, vocabulary)
    assert text.load_vocabulary(tmp_path).words == vocabulary.words


DESCRIPTION = json.dumps({"class_names": ["a", "b", "Hündin", "0"]}).encode()


@repeatable(1000)
@given(content=mutated((DESCRIPTION,)) | mutated_json((DESCRIPTION,), (0, -1.0, [0], "a")))
def test_a_damaged_description_of_data_is_read_as_it_says_or_refused(content, tmp_path):
    (tmp_path / images.DESCRIPTION).write_bytes(content)
    try:
        found = images.load_description(tmp_path)
    except InputError as error:
        assert str(tmp_path) in str(error) and len(str(error)) < 1000
        return
    assert found == json.loads(content.decode("utf-8-sig"))
    assert all(isinstance(name, str) for name in found["class_names"])


PLACE = json.dumps(
    {
        "cluster": {"chief": ["10.0.0.1:2222"], "worker": ["first.host:12345", "b:1"]},
        "task": {"type": "worker", "index": 1},
    }
).encode()


@repeatable(700)
@given(content=mutated((PLACE,)) | mutated_json((PLACE,), ("a:1", "a:0", "chief", ["a:1"], 5)))
def test_a_damaged_tf_config_names_a_worker_or_is_refused(content):
    text_of_it = content.decode(errors="surrogateescape")
    try:
        distribution.check_tf_config(text_of_it)
    except InputError as error:
        assert "TF_CONFIG" in str(error) and len(str(error)) < 1500
        return
    place = json.loads(text_of_it)
    addresses = place["cluster"][place["task"]["type"]]
    host, _, port = addresses[place["task"]["index"]].rpartition(":")
    assert host and 0 < int(port) < 65536 and place["task"]["index"] >= 0


def test_memory_that_is_not_there_is_an_error_in_a_line(monkeypatch, tmp_path, capsys):
    import tensorflow as tf

    for error in (
        MemoryError("cannot allocate"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nwith shape"),
    ):

        def fail(values, error=error):
            raise error

        monkeypatch.setattr(images, "load", fail)
        assert run(search_cnn, f"--workdir={tmp_path / 'run'}") == 1
        said = capsys.readouterr().err
        assert said.startswith("error: Out of memory. Take a smaller --batch_size, or fewer chan")
        assert said.count("\n") == 1
