"""The public names, and what importing them loads."""

import ast
import re
import subprocess
import sys

import pytest

import darts_tf
from darts_tf.genotype.json_form import FORMAT
from tests.rooms import REPOSITORY, library_files

NAMES = [
    "Adam",
    "AlphaHistory",
    "ArchitectureEvaluation",
    "ArchitectureSearch",
    "Augmentation",
    "AveragedSGD",
    "DropPathSchedule",
    "EvaluationNetwork",
    "Genotype",
    "GenotypeFile",
    "InputError",
    "LanguageModelTraining",
    "MetricsLog",
    "Progress",
    "RecurrentDerivedCell",
    "RecurrentEvaluationNetwork",
    "RecurrentGenotype",
    "RecurrentSupernet",
    "Regularization",
    "SGD",
    "StopOnNotFinite",
    "Supernet",
    "cosine_schedule",
    "derive",
    "exponential_schedule",
    "export_language_model",
    "export_saved_model",
    "load_genotype",
    "load_model",
    "normalization",
    "pair",
    "plot_alphas",
    "plot_genotype",
    "split",
]


def test_public_names_are_these():
    assert darts_tf.__all__ == NAMES
    assert {*NAMES, "__version__", "genotype", "space"} <= set(dir(darts_tf))
    assert all(hasattr(darts_tf, name) for name in dir(darts_tf))


@pytest.mark.parametrize("name", NAMES)
def test_public_name_can_be_used_and_is_documented(name):
    thing = getattr(darts_tf, name)
    assert callable(thing) and thing.__name__ == name
    assert thing.__doc__ and thing.__module__.startswith("darts_tf.")


def test_unknown_name_is_an_attribute_error_as_of_any_module():
    with pytest.raises(AttributeError, match="module 'darts_tf' has no attribute 'Supernett'"):
        _ = darts_tf.Supernett
    assert not hasattr(darts_tf, "Supernett")


@pytest.mark.parametrize(
    "statement",
    [
        "import darts_tf, darts_tf.genotype",
        "from darts_tf import Genotype, InputError, derive; from darts_tf.genotype import zoo; "
        "zoo.genotype('DARTS_V2')",
    ],
)
def test_reading_genotypes_does_not_load_tensorflow(statement):
    program = (
        f"{statement}\nimport sys\n"
        "print([m for m in ('tensorflow', 'keras', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


DOTTED = re.compile(r"(?<![\w/.])darts_tf(?:\.[A-Za-z]\w*)+")


def named():
    """The dotted names that a document or an error tells a user, the deepest first."""
    documents = ("README.md", "docs/operations.md", "docs/performance.md")
    texts = [(REPOSITORY / path).read_text(encoding="utf-8") for path in documents]
    for path in set(library_files()) - {"darts_tf/__init__.py"}:
        nodes = list(ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts += [
            node.value
            for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if id(node) not in docstrings
        ]
    names = {name for text in texts for name in DOTTED.findall(text)}
    # Programs are started, not imported, and the format of a file is no name.
    names = {name for name in names if not name.startswith("darts_tf.bin") and name != FORMAT}
    return sorted(names, key=lambda name: (-name.count("."), name))


def test_every_name_that_a_text_tells_works_after_one_import():
    names = named()
    assert names[0] == "darts_tf.space.functional.batch_norm"  # with nothing loaded before
    assert {"darts_tf.load_genotype", "darts_tf.load_model"} <= set(names)
    program = "import darts_tf\n" + "".join(f"{name}\n" for name in names)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_rooms_need_no_import_of_their_own():
    program = "import darts_tf; darts_tf.genotype.zoo.genotype('DARTS_V2'); darts_tf.errors"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
