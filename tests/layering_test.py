"""Imports point one way, and importing darts_tf does nothing but define."""

import graphlib
import subprocess
import sys
import textwrap

import pytest

from tests import rooms


@pytest.mark.parametrize("path", rooms.library_files())
def test_file_keeps_to_its_room(path):
    assert not rooms.breaches(path, (rooms.REPOSITORY / path).read_text())


def test_every_room_is_there_and_the_rule_has_no_circle():
    files = rooms.library_files()
    assert {rooms.room_of(rooms.module_of(path)) for path in files} == set(rooms.MAY_IMPORT)
    assert list(graphlib.TopologicalSorter(rooms.MAY_IMPORT).static_order())


@pytest.mark.parametrize(
    "path, source, words",
    [
        ("space/a.py", "from darts_tf.networks import supernet", "space imports networks"),
        ("space/a.py", "from darts_tf import networks", "space imports networks"),
        ("space/a.py", "import darts_tf.networks.supernet as s", "space imports networks"),
        ("space/a.py", "from ..networks import supernet", "space imports networks"),
        ("space/__init__.py", "from ..data import pair", "space imports data"),
        ("space/a.py", "def f():\n    from darts_tf import data", "a.py:2: space imports data"),
        ("space/a.py", "import darts_tf", "space imports darts_tf"),
        ("space/a.py", "from darts_tf import Supernet", "space imports darts_tf"),
        ("search/a.py", "import darts_tf.networks", "search imports networks"),
        ("search/a.py", "from darts_tf.training import loop", "search imports training"),
        ("training/a.py", "from darts_tf import search", "training imports search"),
        ("report/a.py", "from darts_tf import data", "report imports data"),
        ("data/a.py", "from darts_tf import genotype", "data imports genotype"),
        ("data/a.py", "from darts_tf.bin import common", "data imports bin"),
        ("errors.py", "from darts_tf import data", "errors imports data"),
        ("cells/a.py", "", "cells is no room"),
        ("genotype/a.py", "import tensorflow as tf", "genotype imports tensorflow"),
        ("genotype/a.py", "def f():\n    from keras import ops", "genotype imports keras"),
        ("space/a.py", "import importlib\nimportlib.import_module(x)", "layering cannot see"),
        ("space/a.py", "from importlib import import_module as i\ni(x)", "layering cannot see"),
        ("space/a.py", "def f(x):\n    assert x", "a.py:2: assert"),
        ("data/a.py", "from absl import flags", "absl flags outside bin"),
        ("data/a.py", "def f():\n    import absl.flags", "absl flags outside bin"),
        (
            "bin/a.py",
            "from absl import flags\nflags.DEFINE_bool()",
            "absl.flags.DEFINE_bool at imp",
        ),
        ("bin/a.py", "from absl.flags import DEFINE_bool as d\nX = d()", "DEFINE_bool at import"),
        ("data/a.py", "import tensorflow as tf\ntf.config.f()", "tensorflow.config.f at import"),
        ("data/a.py", "import tensorflow as tf\nX = [tf.constant(1)]", "tensorflow.constant at"),
        ("data/a.py", "from tensorflow import config\nconfig.f()", "tensorflow.config.f at import"),
        ("data/a.py", "import tensorflow as t\ndef f(x=t.device(1)): pass", "device at import"),
        (
            "data/a.py",
            "import tensorflow as t\nclass A:\n    x = t.Variable(1)",
            "Variable at import",
        ),
        ("data/a.py", "import tensorflow as t\nif x:\n    t.config.a.b()", "config.a.b at import"),
    ],
)
def test_breach_is_seen(path, source, words):
    assert words in "\n".join(rooms.breaches(f"darts_tf/{path}", source))


@pytest.mark.parametrize(
    "path, source",
    [
        ("space/a.py", "import tensorflow as tf\nfrom darts_tf.errors import InputError"),
        ("space/a.py", "from darts_tf.space.block import Block\nfrom . import mixed"),
        ("space/__init__.py", "from .block import Block"),
        ("search/a.py", "import tensorflow as tf\nX = tf.distribute.ReduceOp.SUM"),
        ("data/a.py", "import tensorflow as tf\ndef f():\n    tf.config.f()"),
        ("data/a.py", "import tensorflow as tf\nf = lambda: tf.constant(1)"),
        ("bin/a.py", "import darts_tf\nfrom darts_tf import data\nfrom absl import flags"),
        ("bin/a.py", "from absl import flags\ndef f(v: flags.FlagValues):\n    flags.DEFINE_x()"),
        ("bin/a.py", "from absl import flags\nif __name__ == '__main__':\n    flags.DEFINE_x()"),
        ("__init__.py", "import importlib\nimportlib.import_module('darts_tf.data')"),
    ],
)
def test_what_is_allowed_is_not_a_breach(path, source):
    assert rooms.breaches(f"darts_tf/{path}", source) == []


def test_reading_genotypes_does_not_load_tensorflow():
    _run_alone(
        """
        import sys
        import darts_tf, darts_tf.genotype
        darts_tf.Genotype
        assert not {"tensorflow", "keras"} & set(sys.modules)
        """
    )


def test_importing_everything_defines_no_flag_and_sets_up_no_device():
    modules = [rooms.module_of(path) for path in rooms.library_files()]
    _run_alone(
        f"""
        import importlib
        import tensorflow as tf, tensorflow_datasets, sklearn
        from absl import flags
        before = set(flags.FLAGS)
        for module in {modules}:
            importlib.import_module(module)
        assert set(flags.FLAGS) == before, set(flags.FLAGS) - before
        # Refused once TensorFlow has set up its devices.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        """
    )


def test_running_alone_sees_a_device_that_was_set_up():
    with pytest.raises(AssertionError, match="cannot be modified after initialization"):
        _run_alone(
            """
            import tensorflow as tf
            tf.constant(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            """
        )


def _run_alone(program: str) -> None:
    """Runs a program in an interpreter of its own, where no other test has imported anything."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
