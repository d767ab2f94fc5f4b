"""Whether TensorFlow uses oneDNN: by the environment, else by the processor; who is told."""

import subprocess
import sys
import warnings

import pytest
import tensorflow as tf

from darts_tf import processor

ZEN_3 = "fpu sse4_2 avx avx2 fma"
ZEN_4 = f"{ZEN_3} avx512f avx512_bf16 avx512_vnni"


@pytest.fixture
def machine(monkeypatch):
    """Sets what the processor is, and what the user has said."""

    def become(flags, said=None, architecture="x86_64"):
        monkeypatch.setattr(processor, "_cpuinfo", lambda: {"model name": "N", "flags": flags})
        monkeypatch.setattr(processor.platform, "machine", lambda: architecture)
        monkeypatch.delenv(processor.VARIABLE, raising=False)
        if said is not None:
            monkeypatch.setenv(processor.VARIABLE, said)

    processor.advise.cache_clear()
    yield become
    processor.advise.cache_clear()


@pytest.mark.parametrize(
    "flags, said, architecture, expected",
    [
        (ZEN_3, None, "x86_64", False),
        (ZEN_4, None, "x86_64", True),
        (f"{ZEN_3} avx_vnni", None, "AMD64", True),
        (ZEN_3, "1", "x86_64", True),
        (ZEN_4, "0", "x86_64", False),
        (ZEN_4, "false", "x86_64", False),
        ("", None, "x86_64", None),
        ("asimd", None, "aarch64", None),
    ],
)
def test_onednn_is_on_where_tensorflow_turns_it_on_or_the_user_has(
    flags, said, architecture, expected, machine
):
    machine(flags, said, architecture)
    assert processor.uses_onednn() is expected


def test_the_instruction_sets_are_those_that_matter(machine):
    machine(ZEN_3)
    assert processor.instruction_sets() == ["sse4_2", "avx", "avx2", "fma"]
    assert processor.model_name() == "N"


def test_a_user_without_onednn_is_told_once_and_how(machine, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    machine(ZEN_3)
    with pytest.warns(UserWarning, match="Set TF_ENABLE_ONEDNN_OPTS=1 .* before TensorFlow is"):
        processor.advise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor.advise()


@pytest.mark.parametrize("flags, said", [(ZEN_4, None), (ZEN_3, "1"), (ZEN_3, "0")])
def test_nobody_else_is_told(flags, said, machine, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    machine(flags, said)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor.advise()


@pytest.mark.parametrize("said, expected", [(None, "1"), ("0", "0")])
def test_programs_turn_it_on_unless_the_user_has_decided(said, expected, machine, monkeypatch):
    machine(ZEN_3, said)
    monkeypatch.setattr(processor.os, "environ", dict(processor.os.environ))
    processor.turn_onednn_on()
    assert processor.os.environ[processor.VARIABLE] == expected


def test_what_is_no_note_of_tensorflows_stays_on_the_terminal(tmp_path):
    """The notes of the import are dropped; what else is written meanwhile is not."""
    (tmp_path / "tensorflow.py").write_text(
        "import os\n"
        "os.write(2, b'WARNING: All log messages before absl::InitializeLog() is called\\n')\n"
        "os.write(2, b'I0000 00:00:1795752568.236800    4973 port.cc:153] oneDNN is on\\n')\n"
        "os.write(2, b'a real error\\n')\n"
    )
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); from darts_tf.bin import quiet; "
        "quiet.quiet_tensorflow(); import tensorflow; sys.stderr.write('after\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stderr == "a real error\nafter\n"


def test_without_a_terminal_for_errors_the_import_works_all_the_same(tmp_path):
    (tmp_path / "tensorflow.py").write_text("")
    command = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from darts_tf.bin import quiet; "
        "os.close(2); quiet.quiet_tensorflow(); import tensorflow; print('imported')"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "imported\n")
