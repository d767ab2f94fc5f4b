"""What users get wrong: one clear line, exit code 1, and nothing written."""

import json
import math
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from absl import flags

from darts_tf import genotype
from darts_tf.bin import common, export, pipeline, search_cnn, train_cnn, work_folder
from darts_tf.errors import InputError
from tests.data_images_test import part, pictures, store
from tests.programs import ROOT, alphas, contents, run, store_cifar10

GOOD = genotype.zoo.genotype("DARTS_V2").to_json()
TINY_SEARCH = ("--order=first", "--layers=1", "--nodes=1", "--init_channels=2")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with tiny data sets: one called cifar10, one of images that are too small."""
    root = tmp_path_factory.mktemp("prepared")
    store_cifar10(str(root))
    splits = {"train": part(8, 1, side=4), "test": part(4, 2, side=4)}
    store(str(root), "small", splits, (4, 4, 3))
    return root


@pytest.fixture
def refused(capsys):
    """A function that runs a program, which must refuse in one line, and gives the line."""

    def check(program, *arguments):
        assert run(program, *arguments) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ") and said.err.endswith("\n")
        assert said.err.count("\n") == 1
        assert "Traceback" not in said.err
        return said.err.removeprefix("error: ").rstrip("\n")

    return check


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        (search_cnn, "--epoch=3", "Unknown command line flag 'epoch'. Did you mean: epochs"),
        (train_cnn, "--cutout_size=3", "Unknown command line flag 'cutout_size'"),
        (pipeline, "--epochs=3", "Unknown command line flag 'epochs'"),
        (search_cnn, "--epochs 3 digits", "Unexpected argument 'digits'. Every argument is a flag"),
        (search_cnn, "--epochs=three", "flag --epochs=three: invalid literal for int"),
        (search_cnn, "--flagfile=nowhere.flags", "nowhere.flags"),
        (
            search_cnn,
            "--order=third",
            "Unknown --order 'third'. Known: first, second_exact, second_fd.",
        ),
        (pipeline, "--search_order=third", "Unknown --search_order 'third'. Known: first, second"),
        (search_cnn, "--epochs=0", "--epochs must be at least 1. Received: --epochs=0."),
        (train_cnn, "--epochs=0", "--epochs must be at least 1. Received: --epochs=0."),
        (
            pipeline,
            "--search_epochs=0",
            "--search_epochs must be at least 1. Received: --search_epochs=0.",
        ),
        (pipeline, "--train_layers=0", "--train_layers must be at least 1. Received: --train_l"),
        (search_cnn, "--learning_rate=-1", "--learning_rate must be at least 0. Received: --learn"),
        (search_cnn, "--learning_rate=nan", "--learning_rate must be at least 0. Received: .*nan"),
        (
            search_cnn,
            "--learning_rate=inf",
            "--learning_rate must be at least 0 and finite. Received: --learning_rate=inf.",
        ),
        (train_cnn, "--weight_decay=inf", "--weight_decay must be at least 0 and finite. Rec"),
        (train_cnn, "--weight_decay=-inf", "--weight_decay must be at least 0. Received"),
        (search_cnn, "--momentum=1.5", r"--momentum must be in \[0, 0.999999\]. Received: --mom"),
        (train_cnn, "--momentum=nan", r"--momentum must be in \[0, 0.999999\]. Received: .*nan"),
        (train_cnn, "--drop_path_prob=1", r"--drop_path_prob must be in \[0, 0.999999\]. Received"),
        (search_cnn, "--train_portion=0", "--train_portion must lie between 0 and 1, both exclud"),
        (search_cnn, "--train_portion=1", "both excluded. Received: --train_portion=1.0."),
        (search_cnn, "--train_portion=nan", "both excluded. Received: --train_portion=nan."),
        (pipeline, "--search_train_portion=1", "--search_train_portion must lie .*_portion=1.0"),
        (search_cnn, "--init_channels=0", "--init_channels must be at least 1. Received: --init_c"),
        (search_cnn, "--grad_clip=0", "--grad_clip must be at least 1e-12. Received: --grad_clip"),
        (search_cnn, "--limit=1", "flag --limit=1: 1 is not integer >= 2"),
        (
            search_cnn,
            "--threads=-1",
            r"flag --threads=-1: -1 is not an integer in the range \[0, 1024\]",
        ),
        (search_cnn, "--graph_optimizer=maybe", r"value should be one of <auto\|on\|off>"),
        (search_cnn, "--dataset=cifra10", "Unknown data set 'cifra10'. Known: digits .* cifar10"),
        (search_cnn, "--dataset=imagenet2012", "'imagenet2012' does not fit in memory"),
        (
            search_cnn,
            "--dataset=imagenet2012_subset/1pct",
            "'imagenet2012_subset/1pct' does not fit in memory",
        ),
        (
            train_cnn,
            "--dataset=imagenet2012 --limit=5",
            "--limit does not apply to ImageNet, which is read from disk.",
        ),
        (
            train_cnn,
            "--dataset=imagenet2012 --split=published",
            "--split does not apply to ImageNet, of which nothing is left out.",
        ),
        (pipeline, "--dataset=python_topics --split=published", "--split is of images: a text has"),
        (
            train_cnn,
            "--genotype=DARTS_V3",
            "Unknown genotype 'DARTS_V3'. Known: .*DARTS_V1, DARTS_V2.* file is accepted as well",
        ),
        (search_cnn, "--batch_size=1078", "A batch of 1078 .*: train has only 1077; take a small"),
        (search_cnn, "--batch_size=361", "A batch of 361 .*: valid has only 360; take a smaller"),
        (train_cnn, "--batch_size=1438", "A batch of 1438 .*: training part has only 1437; take"),
        (pipeline, "--search_batch_size=361", "A batch of 361 .*: valid has only 360; take a sm"),
        (pipeline, "--train_batch_size=1438", "A batch of 1438 .*: training part has only 1437"),
        (train_cnn, "--cutout_length=8", "^--cutout_length=8 covers .* 8x8 px.* add --nocutout."),
        (pipeline, "--train_cutout_length=16", "^--train_cutout_length=16 .* --notrain_cutout."),
        (train_cnn, "--cutout_length=0", "--cutout_length must be at least 1. Received: --cutout"),
    ],
)
def test_wrong_flags_are_refused_and_leave_no_work_folder(
    program, arguments, words, refused, tmp_path
):
    folder = tmp_path / "run"
    assert re.search(words, refused(program, f"--workdir={folder}", *arguments.split()))
    assert not folder.exists()


@pytest.mark.parametrize("program", [search_cnn, train_cnn, pipeline, export])
def test_a_program_needs_a_work_folder(program, refused):
    given = ("--output=x",) if program is export else ()
    assert "Flag --workdir must have a value other than None." in refused(program, *given)


def test_a_flagfile_that_is_no_text_is_refused(refused, tmp_path):
    path = tmp_path / "bad.flags"
    path.write_bytes(b"--epochs=3\n\xff\xfe")
    words = r"Flagfile \S+ is not UTF-8 text \(byte 11\). Is this another kind of file\?"
    assert re.search(words, refused(search_cnn, f"--flagfile={path}", "--workdir=x"))


def test_wrong_flags_are_refused_before_tensorflow_is_loaded(tmp_path):
    code = (
        "import sys; from darts_tf.bin import common, search_cnn as s; "
        "code = common.run(s.__doc__, s.define_flags, s.main, sys.argv[1:]); "
        "print(code, 'tensorflow' in sys.modules)"
    )
    for argument in ("--epoch=3", "--epochs=0", "--order=third"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument, f"--workdir={tmp_path / 'run'}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "1 False\n"
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_process_that_refuses_exits_with_1(tmp_path):
    command = [sys.executable, "-m", "darts_tf.bin.train_cnn", "--genotype=DARTS_V3"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: Unknown genotype 'DARTS_V3'. Known: [^\n]*\n", done.stderr)
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_is_refused_with_the_command_that_fetches_it(
    refused, tmp_path, monkeypatch
):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    cifar10 = (search_cnn, "--dataset=cifar10", f"--workdir={tmp_path / 'run'}")
    fetch = r"fetch it with: python -c .*tfds.builder\('cifar10'{}\).download_and_prepare\(\)"
    line = refused(*cifar10)
    assert "'cifar10' was not found in ~/tensorflow_datasets (there is no such folder)" in line
    assert re.search(fetch.format(""), line)
    line = refused(*cifar10, f"--data_dir={tmp_path / 'nowhere'}")
    assert f"'cifar10' was not found in {tmp_path / 'nowhere'} (there is no such folder)" in line
    assert re.search(fetch.format(f", data_dir='{tmp_path / 'nowhere'}'"), line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("program", "settings"),
    [(search_cnn, "--batch_size=2"), (train_cnn, "--batch_size=2"), (pipeline, "")],
)
def test_images_too_small_for_the_reductions_are_refused(
    program, settings, refused, prepared, tmp_path
):
    places = ("--dataset=small", f"--data_dir={prepared}", f"--workdir={tmp_path / 'run'}")
    assert (
        "Images of 4x4 px are too small: this network halves them 2 times and needs at least 8 px "
        "in height and width."
    ) in refused(program, *places, *settings.split())
    assert not (tmp_path / "run").exists()


def test_a_half_that_is_smaller_than_a_batch_is_refused(refused, prepared, tmp_path):
    places = ("--dataset=cifar10", f"--data_dir={prepared}", f"--workdir={tmp_path / 'run'}")
    assert "train has only 8" in refused(search_cnn, *places, "--batch_size=9")
    line = refused(search_cnn, *places, "--train_portion=0.01")
    assert "train_portion 0.01 of 16 training images leaves one part of the search empty" in line
    assert not (tmp_path / "run").exists()


def test_the_published_order_of_a_set_stored_class_by_class_is_refused(refused, tmp_path):
    splits = {"train": (pictures(12), np.repeat([0, 1, 2], 4)), "test": part(3, 2)}
    store(str(tmp_path), "sorted", splits)
    command = ("--dataset=sorted", f"--data_dir={tmp_path}", "--batch_size=2")
    line = refused(search_cnn, *command, "--split=published", f"--workdir={tmp_path / 'run'}")
    assert "valid holds the class 2, which train lacks" in line and "--split=stratified" in line
    assert not (tmp_path / "run").exists()


def test_a_warning_is_one_line_on_the_terminal_of_a_program():
    before, said = warnings.formatwarning, []

    def main(values):
        said.append(warnings.formatwarning(UserWarning("two\nlines"), UserWarning, "file.py", 1))

    assert common.run("", lambda values: None, main, []) == 0
    assert said == ["warning: two lines\n"]
    assert warnings.formatwarning is before


def edited(**changes):
    return json.dumps({**json.loads(GOOD), **changes}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The text is empty. Expected a genotype as JSON or as Genotype"),
        (GOOD.encode()[:200], r"is not valid JSON: .* Was the file cut short or edited\?"),
        (edited(version=2), "reads version 1 of the genotype format. Received version 2"),
        (edited(format="other"), 'A genotype says "format": "darts_tf.genotype". Received: .other'),
        (
            edited(normal=[[["skip_connect", 0], ["skip_connect", 2]]], normal_concat=[2]),
            "Normal cell, node 2, edge 2: a node reads earlier nodes only, here 0 to 1. Received",
        ),
        (
            edited(normal=[[["conv_9x9", 0], ["skip_connect", 1]]], normal_concat=[2]),
            "Normal cell, node 2, edge 1: Unknown primitive 'conv_9x9'. Known: .*sep_conv_3x3",
        ),
        (b"\xff\xfe\x00", r"is not UTF-8 text \(byte 0\). Is this another kind of file\?"),
        (None, "Is a directory. Give a file that holds a genotype"),
    ],
    ids=["empty", "cut", "version", "format", "later node", "primitive", "not UTF-8", "folder"],
)
def test_genotype_files_that_cannot_be_used_are_named(content, words, refused, tmp_path):
    path = tmp_path / "genotype.json"
    path.mkdir() if content is None else path.write_bytes(content)
    line = refused(train_cnn, f"--genotype={path}", f"--workdir={tmp_path / 'run'}")
    assert re.search(words, line) and str(path) in line
    assert not (tmp_path / "run").exists()


def begun(program, folder, *arguments):
    """A work folder as a run leaves it at its start."""
    values = flags.FlagValues()
    program.define_flags(values)
    values(["program", *arguments, f"--workdir={folder}"])
    if program is pipeline:
        pipeline.settle(values)
    with work_folder.prepared(values):
        pass
    (folder / "metrics.jsonl").write_text('{"epoch": 0}\n')
    return contents(folder)


@pytest.mark.parametrize("program", [search_cnn, train_cnn, pipeline])
def test_a_folder_with_another_runs_flags_is_refused_and_left_alone(program, refused, tmp_path):
    prefix, seed = {search_cnn: ("", 2), train_cnn: ("", 0), pipeline: ("search_", 2)}[program]
    before = begun(program, tmp_path, f"--{prefix}epochs=3", "--limit=64")
    line = refused(program, f"--{prefix}epochs=4", f"--{prefix}seed=9", f"--workdir={tmp_path}")
    differing = [
        "--limit was 64, now not set",
        f"--{prefix}epochs was 3, now 4",
        f"--{prefix}seed was {seed}, now 9",
    ]
    assert (
        f"The work folder {tmp_path} holds a run with other flags: {'; '.join(sorted(differing))}. "
    ) in line
    assert f"Repeat its command (--flagfile={tmp_path / 'flags.txt'}) to resume" in line
    assert contents(tmp_path) == before


def test_a_damaged_flags_file_is_another_runs(refused, tmp_path):
    begun(search_cnn, tmp_path)
    (tmp_path / "flags.txt").write_bytes(b"--epochs=\xff\n")
    line = refused(search_cnn, f"--workdir={tmp_path}")
    assert r"--epochs was \xff, now 50" in line
    assert (tmp_path / "flags.txt").read_bytes() == b"--epochs=\xff\n"


def test_a_genotype_file_that_changed_since_the_run_began_is_refused(refused, tmp_path):
    path, folder = tmp_path / "mine.json", tmp_path / "run"
    genotype.save(genotype.zoo.genotype("DARTS_V1"), path)
    begun(train_cnn, folder, f"--genotype={path}")
    genotype.save(genotype.zoo.genotype("DARTS_V2"), folder / "genotype.json")
    before = contents(folder)
    line = refused(train_cnn, f"--genotype={path}", f"--workdir={folder}")
    assert f"The work folder {folder} holds a run with another genotype" in line
    assert "Give that genotype to resume, or name another folder with --workdir." in line
    after = contents(folder)
    after.pop("fingerprint.json")  # `begun` recorded none, as older versions
    assert after == before


@pytest.mark.parametrize("program", [search_cnn, train_cnn, pipeline])
def test_a_folder_that_cannot_be_written_is_refused(program, refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    again = "Name another folder with --workdir, or change its permissions."
    for folder in (file, file / "below"):
        line = refused(program, f"--workdir={folder}")
        assert f"The work folder {folder} cannot be written: Not a directory. {again}" == line
    assert file.read_text() == "mine"
    # No user may make a folder there.
    assert "The work folder /proc/run cannot be written: " in refused(
        program, "--workdir=/proc/run"
    )


def test_a_folder_of_something_else_is_refused_and_left_alone(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    line = refused(search_cnn, f"--workdir={tmp_path}")
    assert f"The work folder {tmp_path} is not empty and has no flags.txt" in line
    assert list(contents(tmp_path)) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("present", "words"),
    [
        ([], "model.keras does not exist: .* is no work folder of a finished training"),
        (["model.keras"], "data.json does not exist: .* or finish the training by its own command"),
        (["model.keras", "data.json"], "cannot be read: .* Train again to make it anew."),
    ],
)
def test_an_unfinished_run_is_not_exported(present, words, refused, tmp_path):
    begun(train_cnn, tmp_path / "run")
    for name in present:
        (tmp_path / "run" / name).write_text("half")
    output = tmp_path / "out"
    line = refused(export, f"--workdir={tmp_path / 'run'}", f"--output={output}")
    assert re.search(words, line)
    assert not output.exists()


def test_unknown_export_formats_are_refused_before_anything_is_written(refused, tmp_path):
    line = refused(export, f"--workdir={tmp_path}", "--output=x", "--formats=saved_model,onnx")
    assert line == "Unknown export format 'onnx'. Known: saved_model, tflite."


def test_an_export_that_cannot_be_written_is_refused(refused, tmp_path):
    import darts_tf

    network = darts_tf.EvaluationNetwork(
        genotype.zoo.genotype("DARTS_V2"), 3, 2, 1, image_shape=(8, 8, 1)
    )
    network.save(tmp_path / "model.keras")
    description = {"mean": [0.5], "standard_deviation": [1.0], "class_names": ["a", "b", "c"]}
    (tmp_path / "data.json").write_text(json.dumps(description))
    line = refused(export, f"--workdir={tmp_path}", f"--output={tmp_path / 'out'}")
    assert f"The run in {tmp_path} was trained by a version whose networks took images that" in line
    (tmp_path / "data.json").write_text(json.dumps({"class_names": ["a", "b", "c"]}))
    file = tmp_path / "file"
    file.write_text("mine")
    for output in (file, "/proc/out"):
        line = refused(export, f"--workdir={tmp_path}", f"--output={output}")
        assert line.startswith(f"Cannot write to {output}: ")
        assert line.endswith("Name another folder with --output.")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "mine").write_text("mine")
    line = refused(export, f"--workdir={tmp_path}", f"--output={tmp_path}")
    assert f"{tmp_path / 'saved_model'} exists and is no empty folder" in line


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_good_epochs(tmp_path, capsys):
    """The learning rate is absurd from the second epoch on, at the end of its cosine."""
    absurd = ("--learning_rate_min=1e38", "--epochs=2", "--limit=64", "--batch_size=16")
    command = (search_cnn, *TINY_SEARCH, *absurd, f"--workdir={tmp_path}")
    folders = []
    for start in ("search epoch 1/2  ", "search resumes after epoch 1/2\n"):
        assert run(*command) == 1
        said = capsys.readouterr()
        assert said.out.startswith(start)
        assert re.fullmatch(
            # The first step is so large that the weights are only just finite.
            r"error: The loss of the validation batch became NaN or infinite, before anything "
            r"else, in step 2 of epoch 2\. It is not saved: what was saved before it is kept\. "
            r"Look at the validation examples, and lower the learning rate of the weights\.\n",
            said.err,
        )
        folders.append(contents(tmp_path))
    first, second = folders
    assert first == second
    row = json.loads(first["metrics.jsonl"])
    assert row["epoch"] == 0 and all(math.isfinite(value) for value in row.values())
    arrays = alphas(tmp_path)
    assert arrays["epoch"].tolist() == [0]
    assert np.isfinite(arrays["normal"]).all() and np.isfinite(arrays["reduce"]).all()
    found = genotype.load(tmp_path / "genotype.json")
    assert found == genotype.derive(arrays["normal"][0], arrays["reduce"][0])
    assert genotype.load_provenance(tmp_path / "genotype.json")["epochs_done"] == 1
    states = sorted((tmp_path / "checkpoints").glob("*.checkpoint"))
    assert states and states[-1].name == "000001-00000000.checkpoint"
    _, manifest, values = states[-1].read_bytes().split(b"\n", 2)
    count = 0
    for shape, dtype in json.loads(manifest)["variables"]:
        value = np.frombuffer(values, dtype, math.prod(shape), count)
        count += value.nbytes
        assert value.dtype.kind != "f" or np.isfinite(value).all()
    assert count == len(values) > 1000


def test_the_program_trains_on_the_part_of_imagenet_that_was_named(tmp_path):
    picture = np.zeros((20, 20, 3), np.uint8)
    sizes = {"imagenet2012": (None, "5.1.0", 3), "imagenet2012_subset": ("1pct", "5.0.0", 2)}
    for name, (config, version, count) in sizes.items():
        splits = {"train": ([picture] * count, [0] * count), "validation": ([picture], [0])}
        store(tmp_path, name, splits, (None, None, 3), version=version, config=config)
    settings = train_cnn.TrainSettings(cutout=False, batch_size=1)
    for name, count in (("imagenet2012:5.1.0", 3), ("imagenet2012_subset/1pct", 2)):
        streams = train_cnn.streams_of_imagenet(settings, name, str(tmp_path))
        assert streams.train.num_examples == count
    for name, words in (
        ("imagenet2012:5.0.0", "no version 5.0.0 in .*; prepared there: 5.1.0"),
        ("imagenet2012_real", "'imagenet2012_real' was not found in"),
    ):
        with pytest.raises(InputError, match=words):
            train_cnn.streams_of_imagenet(settings, name, str(tmp_path))
