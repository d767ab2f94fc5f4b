"""Loading a file never executes what is in it."""

import ast
import json
import zipfile

import pytest

from tests.programs import run
from tests.rooms import REPOSITORY, library_files

FORBIDDEN = {
    "eval", "exec", "compile", "pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "yaml",
}  # fmt: skip


def executions(source):
    """What a source has that can execute a file's content, one line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = set()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            names.add((getattr(node, "module", None) or "").split(".")[0])
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            home = getattr(called.value, "id", "") if isinstance(called, ast.Attribute) else ""
            given = {
                k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)
            }
            # re.compile, model.compile and the like are others.
            if not isinstance(called, ast.Attribute) or home == "builtins" or "unsafe" in name:
                names = {name}
            names |= {f"{k}={v}" for k, v in given.items() if (k, v) in UNSAFE}
            if (
                name == "load"
                and home in ("np", "numpy")
                and given.get("allow_pickle") is not False
            ):
                names.add("numpy.load without allow_pickle=False")
        found += [
            f"line {node.lineno}: {name}"
            for name in sorted(names)
            if name in FORBIDDEN or "=" in name or "_unsafe_" in name
        ]
    return found


UNSAFE = {("allow_pickle", True), ("safe_mode", False), ("shell", True)}


@pytest.mark.parametrize("path", library_files())
def test_no_source_executes_what_it_reads(path):
    assert executions((REPOSITORY / path).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "exec(open(path).read())",
        "import pickle",
        "from pickle import loads",
        "import numpy as np\nnp.load(path)",
        "np.load(path, allow_pickle=True)",
        "keras.models.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds(source):
    assert executions(source)


def test_a_model_with_code_in_it_is_refused_and_runs_nothing(tmp_path, capsys):
    """A .keras file is a configuration and numbers, but Keras can put a function's code into it."""
    import keras

    from darts_tf.bin import export

    made = tmp_path / "made"
    layer = keras.layers.Lambda(eval(f"lambda x: (__import__('os').mkdir({str(made)!r}), x)[1]"))
    keras.Sequential([layer]).save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as file:
        assert "lambda" in json.dumps(json.loads(file.read("config.json"))).lower()
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (tmp_path / "whole.keras").rename(run_folder / "model.keras")
    (run_folder / "data.json").write_text('{"class_names": ["a"]}')
    assert run(export, f"--workdir={run_folder}", f"--output={tmp_path / 'out'}") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {run_folder} cannot be read: ") and said.count("\n") == 1
    assert "lambda" in said.lower() and not made.exists()
