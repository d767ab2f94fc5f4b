"""The memory program: it measures, and says when memory grows."""

import re

import pytest

from darts_tf.bin import soak
from tests.programs import run


def test_memory_of_a_few_steps_is_told_and_stays(capsys):
    assert run(soak, "--steps=60", "--every=20", "--limit_mb=200") == 0
    lines = capsys.readouterr().out.splitlines()
    levels = [float(m[1]) for line in lines if (m := re.match(r"step \d+ +([\d.]+) MB$", line))]
    assert len(levels) == 3 and all(50 < level < 20_000 for level in levels)
    growth = max(levels[1:]) - levels[0]
    told = re.fullmatch(r"growth +(-?[\d.]+) MB since step 20, limit 200 MB", lines[-1])
    assert float(told[1]) == pytest.approx(growth, abs=0.11)


def test_growth_is_an_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(soak, "measure", lambda *arguments: [100.0, 170.0, 120.0])
    assert run(soak) == 1
    assert capsys.readouterr().out == "growth      70.0 MB since step 200, limit 50 MB\n"
    assert run(soak, "--limit_mb=70") == 0


def test_steps_that_cannot_be_measured_are_refused(capsys):
    for given in (("--steps=30",), ("--steps=300",), ("--steps=0",), ("--limit_mb=nan",)):
        assert run(soak, *given) == 1
        assert capsys.readouterr().err.startswith("error: ")
