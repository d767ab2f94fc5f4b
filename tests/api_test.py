"""The public names, and what importing them loads."""

import subprocess
import sys

import pytest

import darts_tf

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
