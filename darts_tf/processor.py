"""The processor, and whether TensorFlow uses oneDNN's kernels on it.

TensorFlow for x86 turns them on by itself only on processors with instructions for neural networks,
and reads the environment variable TF_ENABLE_ONEDNN_OPTS once, when it is imported. On others, such
as AMD's Zen 2 and 3 or Intel's before Cascade Lake, a step of a search takes more than twice the
time without them.
"""

import functools
import os
import pathlib
import platform
import warnings

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"

# As they are named in /proc/cpuinfo: with one of them TensorFlow turns oneDNN on.
_FOR_NETWORKS = ("avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
_NAMED = ("sse4_2", "avx", "avx2", "fma", "avx512f", *_FOR_NETWORKS)
_X86 = ("x86_64", "AMD64")


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The first value of each key in /proc/cpuinfo; nothing on other systems than Linux."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {key.strip(): value.strip() for key, _, value in pairs}


def model_name() -> str:
    """Such as "AMD EPYC 7R13 Processor"; the architecture where the system does not tell."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Those that matter to TensorFlow, such as avx2 and avx512f; none if they are not known."""
    flags = _cpuinfo().get("flags", "").split()
    return [name for name in _NAMED if name in flags]


def uses_onednn() -> bool | None:
    """Whether TensorFlow uses oneDNN's kernels here; None where that is not known.

    It is as TensorFlow decides on Linux for x86. On Arm and elsewhere its defaults depend on the
    build.
    """
    said = os.environ.get(VARIABLE, "").lower()
    if said in ("1", "true"):
        return True
    if said in ("0", "false"):
        return False
    if platform.machine() not in _X86 or not instruction_sets():
        return None
    return any(name in instruction_sets() for name in _FOR_NETWORKS)


def turn_onednn_on() -> None:
    """Sets TF_ENABLE_ONEDNN_OPTS=1 on x86, unless it is set. TensorFlow reads it when imported."""
    if platform.machine() in _X86:
        os.environ.setdefault(VARIABLE, "1")


@functools.cache
def advise() -> None:
    """Warns once if a CPU is about to train without oneDNN and nobody has decided that."""
    import tensorflow as tf

    if uses_onednn() is False and VARIABLE not in os.environ:
        if not tf.config.list_physical_devices("GPU"):
            warnings.warn(
                "TensorFlow does not use oneDNN's kernels on this processor by itself; with them a "
                f"search takes half the time. Set {VARIABLE}=1 in the environment before "
                f"TensorFlow is imported, for example: {VARIABLE}=1 python my_search.py "
                f"({VARIABLE}=0 keeps it as it is and this warning away.)",
                stacklevel=3,
            )
