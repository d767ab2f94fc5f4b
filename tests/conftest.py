"""Shared by all tests: flags readable, graphs quick to start, no precision left behind."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the programs do
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Hypothesis keeps a few files; not in the checkout.
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis")
)

import keras
import pytest
import tensorflow as tf
from absl import flags
from tensorflow.python.framework import config


def pytest_configure(config):
    flags.FLAGS.mark_as_parsed()
    # Every graph here runs a few times; the optimizer would take longer than all of its steps.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture
def precision(request):
    """Keras in the precision that a test asks for by parametrization; float64 by default."""
    wanted = getattr(request, "param", "float64")
    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx(wanted)
    keras.config.set_dtype_policy(wanted)
    yield wanted
    keras.config.set_dtype_policy(before[0])
    keras.config.set_floatx(before[1])


@pytest.fixture(autouse=True)
def _determinism_ends_with_a_test():
    """The programs turn it on for their process, which here is that of all tests."""
    yield
    # TensorFlow has no public way back; without one, other tests could draw no random numbers.
    config.disable_op_determinism()
