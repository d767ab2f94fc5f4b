"""The programs toy_bilevel, verify and plot: what they write and print, and how they fail."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from darts_tf import genotype
from darts_tf.bin import common, plot, toy_bilevel, verify
from darts_tf.errors import InputError
from darts_tf.report import toy_plot
from darts_tf.search import bilevel, toy

ROOT = pathlib.Path(__file__).parents[1]
STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}

SPACE = """
import keras, numpy as np, tensorflow as tf

class Mixture(keras.Model):
    def __init__(self, stock_moments):
        super().__init__(name="mixture")
        self.stock_moments = stock_moments
        self.matrices = [self.add_weight(shape=shape) for shape in ((4, 5), (5, 3))]
        self.alphas = self.add_weight(shape=(2,), initializer="zeros", trainable=False)
        self.built = True

    architecture_parameters = property(lambda self: [self.alphas])
    network_parameters = property(lambda self: self.trainable_variables)

    def derive(self):
        return None

    def call(self, x, training=False):
        h = x @ self.matrices[0]
        m = tf.nn.softmax(tf.convert_to_tensor(self.alphas))
        h = m[0] * tf.nn.relu(h) + m[1] * tf.sin(h)
        if self.stock_moments:
            mean, variance = tf.nn.moments(h, [0])
        else:
            mean = tf.reduce_mean(h, 0)
            variance = tf.reduce_mean((h - mean) ** 2, 0)
        return (h - mean) * tf.math.rsqrt(variance + 1e-3) @ self.matrices[1]

def batches():
    source = np.random.default_rng(2)
    return [(source.normal(size=(8, 4)), source.integers(3, size=8)) for _ in range(2)]

def right():
    keras.utils.set_random_seed(1)
    return Mixture(False), *batches()

def with_a_loss():
    return (*right(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

def stock_moments():
    keras.utils.set_random_seed(1)
    return Mixture(True), *batches()

def single_precision():
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    return right()

def incomplete():
    return Mixture(False), batches()

def no_supernet():
    return keras.Sequential([keras.layers.Dense(3)]), *batches()

def failing():
    raise RuntimeError("no data here")

a_number = 3
"""


def run(program, *arguments):
    return common.run(program.__doc__, program.define_flags, program.main, list(arguments))


def process(program, *arguments, folder=ROOT):
    command = [sys.executable, "-m", f"darts_tf.bin.{program}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def one_line_error(captured) -> str:
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def space(tmp_path, monkeypatch):
    """A folder with a user's module `space`, which is the current one."""
    (tmp_path / "space.py").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("space", None)


# toy_bilevel


def test_flagfile_of_the_paper_s_figure_runs(tmp_path):
    picture = tmp_path / "toy.png"
    done = process("toy_bilevel", "--flagfile=flags/toy_bilevel.flags", f"--output={picture}")
    assert done.returncode == 0
    for row in ("0    (1.9999", "0.2    (1.428571, 1.4285", "0.5    (1.000000", "0.7    (0.833333"):
        assert row in done.stdout
    assert str(picture) in done.stdout
    assert picture.read_bytes().startswith(STARTS[".png"])


def test_table_shows_how_far_a_short_run_is_from_the_fixed_point(tmp_path, capsys):
    output = f"--output={tmp_path / 'toy.svg'}"
    assert run(toy_bilevel, "--xi=0.5", "--steps=10", output) == common.DONE
    row = capsys.readouterr().out.splitlines()[1]
    distance = np.hypot(0.8**10, (2 * 0.1 * 10 - 3) * 0.8**10)
    assert row.split()[0] == "0.5"
    assert "(1.107374, 0.892626)" in row and "(1.000000, 1.000000)" in row
    assert row.endswith(f"{distance:.1e}")


def test_first_order_is_compared_with_its_own_fixed_point(tmp_path, capsys):
    output = f"--output={tmp_path / 'toy.svg'}"
    assert run(toy_bilevel, "--xi=0.5", "--order=first", output) == common.DONE
    assert "(2.000000, 2.000000)      1.000000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--xi=a"], "--xi must be numbers, 0 or more, separated by commas"),
        (["--xi=-1"], "Received: --xi=-1."),
        (["--xi="], "--xi must be numbers"),
        (["--xi=nan"], "--xi must be numbers"),
        (["--steps=0"], "--steps=0"),
        (["--order=third"], "first|second_fd|second_exact"),
        (["--learning_rate=0"], "--learning_rate must be a positive number"),
        (["--learning_rate=3"], "diverges for xi=0 at --learning_rate=3"),
        (["--output=toy.bmp"], "one of .svg, .png, .pdf. Received: 'toy.bmp'"),
        (["--output=missing/toy.png", "--steps=1"], "Cannot write missing/toy.png"),
        (["toy.png"], "Unexpected argument 'toy.png'"),
    ],
)
def test_toy_bilevel_answers_bad_flags_in_one_line(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(toy_bilevel, *arguments) == common.USAGE_ERROR
    assert words in one_line_error(capsys.readouterr())
    assert not list(tmp_path.iterdir())


# toy_plot


@pytest.mark.parametrize("suffix", STARTS)
def test_picture_is_in_the_format_of_its_suffix(tmp_path, suffix):
    path = tmp_path / f"toy{suffix}"
    toy_plot.plot_toy({xi: toy.trajectory(xi, 20) for xi in (0.0, 0.5)}, path)
    assert path.read_bytes().startswith(STARTS[suffix])


def test_picture_names_every_end_point_the_optimum_and_the_saddle(tmp_path):
    path = tmp_path / "toy.svg"
    toy_plot.plot_toy({xi: toy.trajectory(xi, 160) for xi in (0.0, 0.2, 0.5, 0.7)}, path)
    text = path.read_text()
    for words in ("constrained optimum (1, 1)", "a saddle", "start", "2.000", "1.429", "0.833"):
        assert words in text


def test_every_point_of_every_trajectory_is_in_view():
    paths = {xi: toy.trajectory(xi, 60) for xi in (0.0, 0.3, 2.0)}
    axes = toy_plot.toy_figure(paths).axes[0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for path in paths.values():
        assert left < path.alpha.min() and path.alpha.max() < right
        assert bottom < path.w.min() and path.w.max() < top


def test_nothing_to_draw_is_an_error():
    with pytest.raises(InputError, match="no trajectory"):
        toy_plot.toy_figure({})
    diverged = toy.Trajectory(np.array([2.0, np.inf]), np.array([-2.0, 1.0]), np.zeros(1))
    with pytest.raises(InputError, match="xi=0.5 is not: it diverged"):
        toy_plot.toy_figure({0.5: diverged})


# plot


@pytest.mark.parametrize("suffix", [".svg", ".png", ".dot"])
def test_published_genotype_is_drawn_by_name(tmp_path, capsys, suffix):
    path = tmp_path / f"cell{suffix}"
    assert run(plot, "--genotype=DARTS_V2", f"--output={path}") == common.DONE
    assert path.stat().st_size > 1000
    assert str(path) in capsys.readouterr().out


def test_genotype_file_and_recurrent_genotype_are_drawn(tmp_path):
    found = tmp_path / "genotype.json"
    genotype.save(genotype.zoo.genotype("DARTS_V1"), found)
    path = tmp_path / "cell.svg"
    assert run(plot, f"--genotype={found}", f"--output={path}", "--title=Found") == common.DONE
    assert "Found" in path.read_text()
    name = genotype.zoo.names("rnn")[0]
    assert run(plot, f"--genotype={name}", "--kind=rnn", f"--output={path}") == common.DONE
    assert "Recurrent cell" in path.read_text()


def test_a_genotype_written_out_and_one_of_several_in_a_file_are_drawn(tmp_path):
    text = genotype.zoo.genotype("DARTS_V1").to_text()
    several = tmp_path / "genotypes.py"
    several.write_text(f"DARTS_V1 = {text}\nNASNet = {genotype.zoo.genotype('NASNet').to_text()}\n")
    pictures = []
    for number, value in enumerate(("DARTS_V1", text, f"{several}#DARTS_V1", f"{several}#0")):
        path = tmp_path / f"cell{number}.dot"
        assert run(plot, f"--genotype={value}", f"--output={path}") == common.DONE
        pictures.append(path.read_text())
    assert len(set(pictures)) == 1


def test_alphas_are_drawn(tmp_path):
    alphas = tmp_path / "alphas.npz"
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 8))
    np.savez(alphas, epoch=np.arange(3), normal=values[0], reduce=values[1])
    path = tmp_path / "alphas.svg"
    assert run(plot, f"--alphas={alphas}", f"--output={path}") == common.DONE
    assert "Reduction cell" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either --genotype or --alphas. Received: neither"),
        (["--genotype=DARTS_V2", "--alphas=a.npz"], "Received: --genotype and --alphas"),
        (["--genotype=DARTS_V9"], "Unknown genotype 'DARTS_V9'. Known: "),
        (["--genotype=NASNet", "--kind=rnn"], "Unknown genotype 'NASNet'. Known: "),
        (["--genotype=DARTS_V2", "--output=cell.bmp"], "Received: 'cell.bmp'"),
        (["--genotype=notes.txt"], "Genotype file notes.txt"),
        (["--genotype=Genotype([])"], "Genotype(...) takes normal, normal_concat, reduce"),
        (["--genotype=notes.txt#DARTS"], "Genotype file notes.txt"),
        (["--alphas=missing.npz"], "Cannot read alphas missing.npz: No such file or directory"),
        (["--alphas=notes.txt"], "notes.txt is not an .npz file"),
        (["--alphas=array.npy"], "array.npy is not an .npz file"),
        (["--alphas=wrong.npz"], "must have shape (epochs, edges, 8)"),
        (["--alphas=wrong.npz", "--title=x"], "--title goes with --genotype"),
    ],
)
def test_plot_answers_bad_input_in_one_line(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("notes.txt").write_text("notes")
    np.save("array.npy", np.zeros(3))
    np.savez("wrong.npz", normal=np.zeros((3, 5)))
    if not any(argument.startswith("--output") for argument in arguments):
        arguments = [*arguments, "--output=cell.svg"]
    assert run(plot, *arguments) == common.USAGE_ERROR
    assert words in one_line_error(capsys.readouterr())


# verify


@pytest.mark.slow
def test_verify_finds_this_installation_right(tmp_path):
    done = process("verify")
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    assert done.stdout.count("  ok") > 40
    assert done.stdout.rstrip().endswith("all checks hold")


@pytest.mark.parametrize("function", ["right", "with_a_loss"])
def test_verify_passes_a_right_supernet_of_a_user(space, capsys, precision, function):
    assert run(verify, f"--supernet=space:{function}") == common.DONE
    output = capsys.readouterr().out
    assert "a search step: space:" in output and "all checks hold" in output


def test_verify_fails_a_supernet_with_stock_moments(space, capsys, precision):
    """`tf.nn.moments` stops the gradient at the mean: wrong at second order, behind the alphas."""
    assert run(verify, "--supernet=space:stock_moments") == verify.FAILED
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert len(failed) == 1
    assert "second_exact: central differences" in failed[0]


def test_verify_fails_when_the_finite_difference_is_wrong(space, capsys, monkeypatch, precision):
    right = bilevel.second_fd

    def misplaced_parenthesis(train, validation, w, alphas, step, *others, length=0.01):
        """The term times R^2 all but vanishes."""
        with_term = right(train, validation, w, alphas, step, length=length)
        with tf_tape() as tape:
            tape.watch(w)
            value = train(w, alphas)
        w_prime = step(w, tape.gradient(value, w))
        direct = bilevel.first(validation, w_prime, alphas).alphas
        wrong = [d + 1e-4 * (g - d) for g, d in zip(with_term.alphas, direct, strict=True)]
        return bilevel.ArchitectureGradient(wrong, with_term.validation_loss)

    monkeypatch.setattr(bilevel, "second_fd", misplaced_parenthesis)
    assert run(verify, "--supernet=space:right") == verify.FAILED
    assert "1 FAILED: second_fd: central differences" in capsys.readouterr().out


def tf_tape():
    import tensorflow as tf

    return tf.GradientTape(watch_accessed_variables=False)


def test_verify_of_a_user_s_supernet_runs_from_the_command_line(space, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = process("verify", "--supernet=space:right", folder=space)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks hold" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("space", "--supernet must be module:function"),
        (":right", "--supernet must be module:function"),
        ("missing:right", "Cannot import missing: ModuleNotFoundError: No module named 'missing'"),
        ("missing:right", "in the current folder ("),
        ("broken:right", "broken.py, line 2"),
        ("space:wrong", "Module space has no function 'wrong'. It has: Mixture, batches, failing,"),
        ("space:a_number", "has no function 'a_number'"),
        ("space:failing", "space:failing failed: RuntimeError: no data here ("),
        ("space:incomplete", "must return (supernet, train batch, validation batch)"),
        ("space:incomplete", "Received: (Mixture, list of 2)"),
        ("space:batches", "must return (supernet, train batch, validation batch)"),
        ("space:no_supernet", "Sequential without architecture_parameters"),
        ("space:single_precision", "weights must be float64"),
    ],
)
def test_verify_answers_a_bad_supernet_in_one_line(space, capsys, precision, name, words):
    (space / "broken.py").write_text("import os\nraise ValueError('broken')\n")
    assert run(verify, f"--supernet={name}") == common.USAGE_ERROR
    assert words in one_line_error(capsys.readouterr())


def test_verify_leaves_the_precision_of_keras_as_it_was(space, precision, capsys):
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    run(verify, "--supernet=space:incomplete")
    assert keras.config.floatx() == "float32"
    assert keras.config.dtype_policy().name == "float32"
