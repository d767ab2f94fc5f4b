"""Checks the three architecture gradients of this installation, or on a supernet of your own.

    python -m darts_tf.bin.verify
    python -m darts_tf.bin.verify --supernet=my_module:my_function

my_function takes no arguments and returns (supernet, train batch, validation batch[, loss]): a
built Keras model with architecture_parameters, network_parameters and derive(), two batches (x, y)
of NumPy arrays, and a Keras loss, by default the cross-entropy of integer labels and logits. Keras
makes float64 weights while it runs. Exit code 0 if every check holds, else 1.
"""

import sys
from collections.abc import Iterable

from absl import flags

from darts_tf.bin import common, devices, verify_cases

FAILED = 1
WIDTH = 64


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_string(
        "supernet",
        None,
        "module:function that makes a supernet and its batches; the built-in ones by default.",
        flag_values=values,
    )
    devices.define_device_flags(values)


def report(title: str, checks: Iterable) -> list[str]:
    """Prints checks as they are made; returns the names of those that failed."""
    print(f"\n{title:<{WIDTH}}{'figure':>10}{'bound':>10}", flush=True)
    failed = []
    for check in checks:
        bound, state = ("", "") if check.bound is None else (f"{check.bound:.2g}", "ok")
        if not check.passed:
            state = "FAILED"
            failed.append(check.name)
        print(f"  {check.name:<{WIDTH - 2}}{check.figure:>10.2g}{bound:>10}  {state}", flush=True)
        if check.note and not check.passed:
            print(f"    {check.note}", flush=True)
    return failed


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    devices.configure_devices(values)
    from darts_tf.search import verification
    from darts_tf.search.verification_step import step_checks
    from darts_tf.search.verification_toy import toy_checks

    failed = []
    with verify_cases.float64():
        if values.supernet:
            made = {values.supernet: verify_cases.users(values.supernet)}
        else:
            failed += report("toy problem", toy_checks())
            failed += report("second derivatives of primitives", verify_cases.primitives())
            made = verify_cases.built_in()
        for title, (supernet, train, validation, *loss) in made.items():
            search, smooth = verify_cases.make_search(supernet, *loss), title == verify_cases.SMOOTH
            problem = verification.problem_of(search, train, validation)
            failed += report(title, verification.gradient_checks(problem, smooth))
            if not smooth:
                checks = step_checks(search, train, validation)
                failed += report(f"a search step: {title}", checks)
    if failed:
        print(f"\n{len(failed)} FAILED: {'; '.join(failed)}")
        return FAILED
    print("\nall checks hold")
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
