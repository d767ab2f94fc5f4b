"""BUILD, read without Bazel: every source in one target, and deps that say what is imported."""

import pathlib
import subprocess
from collections import Counter
from typing import Any

import pytest

from tests import rooms

RULES = ("py_library", "py_binary", "py_test", "filegroup")


def read(source: str, root: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The targets of a BUILD file by name, each with the arguments of its rule.

    The language of BUILD files is a part of Python, so Python runs them, given the rules as
    functions.
    """
    targets = {}

    def rule(kind):
        def define(name, **arguments):
            assert name not in targets, f"two targets are named {name}"
            targets[name] = {"rule": kind, **arguments}

        return define

    def glob(include, exclude=()):
        def found(patterns):
            return {
                p.relative_to(root).as_posix() for pattern in patterns for p in root.glob(pattern)
            }

        return sorted(found(include) - found(exclude))

    names = {kind: rule(kind) for kind in RULES}
    for ignored in ("load", "package", "exports_files"):
        names[ignored] = lambda *arguments, **options: None
    exec(compile(source, "BUILD", "exec"), {**names, "glob": glob})  # noqa: S102
    return targets


def problems(
    targets: dict[str, dict[str, Any]], files: list[str], root: pathlib.Path = rooms.REPOSITORY
) -> list[str]:
    """What is wrong with the targets, one line each.

    Args:
        targets: As `read` returns them.
        files: Every .py file of the repository.
        root: The folder of BUILD.
    """
    found = []
    homes = Counter()
    for name, target in targets.items():
        for kind in ("srcs", "data", "deps"):
            for label in target.get(kind, []):
                if label.startswith(":"):
                    if label[1:] not in targets:
                        found.append(f"{name}: {kind} name {label}, which is no target")
                elif kind == "deps":
                    found.append(f"{name}: deps name {label}, which is no label")
                elif not (root / label).is_file():
                    found.append(f"{name}: {kind} name {label}, which does not exist")
        homes.update(label for label in target.get("srcs", []) if not label.startswith(":"))
    found += [
        f"{path} is in the srcs of {homes[path]} targets" for path in files if homes[path] != 1
    ]
    found += [f"{path} is no source of the repository" for path in set(homes) - set(files)]

    sources = {path: (root / path).read_text() for path in files}
    home_of = {path: name for name, target in targets.items() for path in target.get("srcs", [])}
    for name, target in targets.items():
        mine = [path for path in target.get("srcs", []) if path in sources]
        if target["rule"] == "py_test":
            mine = _with_helpers(target["args"], sources)
        elif target.get("testonly"):
            continue  # The targets that run a test say what it needs.
        seen = closure(targets, name)
        for path in mine:
            needed = {home_of.get(used) for used in _files_imported(path, sources)} - {None}
            for home in sorted(needed - seen):
                found.append(f"{name}: {path} imports {home}, which is not in deps")
    for room, allowed in rooms.MAY_IMPORT.items():
        if room != "bin":
            deps = {label.lstrip(":") for label in targets.get(room, {}).get("deps", [])}
            if deps != allowed:
                found.append(f"{room}: deps differ from the rule by {sorted(deps ^ allowed)}")
    return found


def closure(targets: dict[str, dict[str, Any]], name: str) -> set[str]:
    """A target and all that it depends on. A room's own deps are the rule's, so nothing is lost."""
    seen, left = set(), [name]
    while left:
        name = left.pop()
        if name not in seen and name in targets:
            seen.add(name)
            left += [label.lstrip(":") for label in targets[name].get("deps", [])]
    return seen


def _files_imported(path: str, sources: dict[str, str]) -> set[str]:
    """The files that a file imports."""
    found = set()
    for name in rooms.imports(path, sources[path]):
        # The imported name is a module, or something in the one above it.
        for module in (name, name.rpartition(".")[0]):
            base = module.replace(".", "/")
            home = [file for file in (f"{base}.py", f"{base}/__init__.py") if file in sources]
            if home:
                found.add(home[0])
                break
    return found


def _with_helpers(paths: list[str], sources: dict[str, str]) -> set[str]:
    """Test files, and the files of tests/ that they import."""
    seen, left = set(), [path for path in paths if path in sources]
    while left:
        path = left.pop()
        seen.add(path)
        left += [
            used for used in _files_imported(path, sources) - seen if used.startswith("tests/")
        ]
    return seen


def python_files() -> list[str]:
    """Every .py file: those that git tracks or would, or all where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=rooms.REPOSITORY,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0 and "darts_tf/__init__.py" in listing.stdout.split():
        files = listing.stdout.split()
    else:
        folders = [rooms.REPOSITORY / name for name in ("darts_tf", "tests")]
        found = [path for folder in folders for path in folder.rglob("*.py")]
        files = [path.relative_to(rooms.REPOSITORY).as_posix() for path in found]
    # git still lists a file that was removed since the last commit.
    return sorted(path for path in set(files) if (rooms.REPOSITORY / path).is_file())


def test_build_file_agrees_with_the_sources():
    targets = read((rooms.REPOSITORY / "BUILD").read_text(), rooms.REPOSITORY)
    assert problems(targets, python_files()) == []


def test_every_test_target_runs_its_own_file():
    targets = read((rooms.REPOSITORY / "BUILD").read_text(), rooms.REPOSITORY)
    tests = {name: target for name, target in targets.items() if target["rule"] == "py_test"}
    assert {f"tests/{name}.py" for name in tests} == {
        path for path in python_files() if path.endswith("_test.py")
    }
    for name, target in tests.items():
        assert target["args"] == [f"tests/{name}.py"]
        assert target["main"] == "tests/run_pytest.py"


def changed(name: str, **arguments) -> dict[str, dict[str, Any]]:
    targets = read((rooms.REPOSITORY / "BUILD").read_text(), rooms.REPOSITORY)
    return {**targets, name: {**targets.get(name, {"rule": "py_library"}), **arguments}}


@pytest.mark.parametrize(
    "targets, words",
    [
        (lambda: changed("errors", srcs=[]), "errors.py is in the srcs of 0 targets"),
        (lambda: changed("more", srcs=["darts_tf/errors.py"]), "errors.py is in the srcs of 2"),
        (lambda: changed("more", srcs=["darts_tf/gone.py"]), "more: srcs name darts_tf/gone.py"),
        (lambda: changed("plot", data=["gone.txt"]), "plot: data name gone.txt"),
        (lambda: changed("plot", deps=[":gone"]), "plot: deps name :gone"),
        (lambda: changed("plot", deps=[]), "plot: darts_tf/bin/plot.py imports bin_common"),
        (lambda: changed("space", deps=[":errors"]), "space: deps differ from the rule by"),
        (lambda: changed("networks", deps=[]), "evaluation.py imports space, which is not in"),
        (lambda: changed("golden_test", deps=[]), "golden_test.py imports networks, which is not"),
    ],
)
def test_mistake_is_seen(targets, words):
    assert words in "\n".join(problems(targets(), python_files()))


def test_comprehensions_and_globs_are_read(tmp_path):
    (tmp_path / "tests").mkdir()
    for name in ("a_x_test.py", "a_y_test.py", "b_test.py"):
        (tmp_path / "tests" / name).touch()
    source = """
[
    py_test(name = path[6:-3], srcs = [path])
    for path in glob(["tests/a_*.py"], exclude = ["tests/*y_test.py"])
]
"""
    assert read(source, tmp_path) == {
        "a_x_test": {"rule": "py_test", "srcs": ["tests/a_x_test.py"]}
    }
