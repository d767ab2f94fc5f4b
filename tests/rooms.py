"""The rooms of darts_tf, which may import which, and what a source file imports and does."""

import ast
import functools
import pathlib
from collections.abc import Iterator

REPOSITORY = pathlib.Path(__file__).parents[1]

# genotype <- space <- networks <- search, training <- report <- bin; data stands beside them.
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "losses": {"errors", "collective"},
    "examples": {"errors", "losses"},
    "reading": {"errors"},
    "collective": set(),
    "processor": set(),
    "replicas": {"errors", "losses", "examples", "collective", "processor"},
    "finite": {"replicas"},
    "loss_scale": {"errors", "replicas"},
    "genotype": {"errors", "files", "reading"},
    "space": {"errors", "collective", "genotype"},
    "networks": {"errors", "replicas", "genotype", "space"},
    "search": {
        *("errors", "losses", "loss_scale", "collective", "replicas", "finite", "genotype"),
        "space",
    },
    "training": {
        *("errors", "files", "losses", "loss_scale", "reading", "collective", "replicas"),
        *("finite", "genotype", "space", "networks"),
    },
    "data": {"errors", "reading"},
    "report": {
        *("errors", "files", "losses", "replicas", "genotype", "space", "networks", "search"),
        "training",
    },
}
"""Room to rooms, itself left out."""
MAY_IMPORT["darts_tf"] = set(MAY_IMPORT)  # The public names: darts_tf/__init__.py.
MAY_IMPORT["bin"] = set(MAY_IMPORT)


def room_of(module: str) -> str:
    """The room of a module: "space" of "darts_tf.space.cells", "darts_tf" of "darts_tf" itself."""
    return (module.split(".") + [module])[1]


def module_of(path: str) -> str:
    """The module of a file: "darts_tf.space" of "darts_tf/space/__init__.py"."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def library_files() -> list[str]:
    """Every .py file of darts_tf, from the repository's root."""
    return sorted(
        path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "darts_tf").rglob("*.py")
    )


@functools.cache
def imports(path: str, source: str) -> dict[str, int]:
    """What a file imports, wherever in it, with the line: modules, and names of `from` imports.

    `from darts_tf import data` gives "darts_tf.data", and not "darts_tf" as well: a name of the
    package that is no room belongs to the public names, and `rooms_imported` says so.
    """
    found = {}
    package = [*module_of(path).split("."), ""] if path.endswith("__init__.py") else None
    package = package or module_of(path).split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = package[: -node.level] if node.level else []
            home = ".".join([*home, *([node.module] if node.module else [])])
            found.update((f"{home}.{alias.name}", node.lineno) for alias in node.names)
    return found


def rooms_imported(path: str, source: str) -> dict[str, int]:
    """The rooms of darts_tf that a file imports, its own left out, with the line."""
    found = {}
    for name, line in imports(path, source).items():
        if name.split(".")[0] == "darts_tf":
            room = room_of(name)
            found[room if room in MAY_IMPORT else "darts_tf"] = line
    if path.startswith("darts_tf/"):
        found.pop(room_of(module_of(path)), None)
    return found


def breaches(path: str, source: str) -> list[str]:
    """What a file of darts_tf does that its room must not, one line each."""
    room = room_of(module_of(path))
    allowed = MAY_IMPORT.get(room, set())
    problems = [
        f"{path}:{line}: {room} imports {other}; it may import {', '.join(sorted(allowed)) or '-'}"
        for other, line in rooms_imported(path, source).items()
        if other not in allowed
    ]
    if room not in MAY_IMPORT:
        problems.append(f"{path}: {room} is no room; tests/rooms.py and BUILD list them")
    for name, line in imports(path, source).items():
        top = name.split(".")[0]
        if room in ("darts_tf", "errors", "files", "genotype") and top in ("tensorflow", "keras"):
            problems.append(f"{path}:{line}: {room} imports {top}; reading genotypes must not")
        if room != "bin" and (f"{name}.".startswith("absl.flags.")):
            problems.append(f"{path}:{line}: absl flags outside bin")
    names = _imported_names(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            problems.append(f"{path}:{node.lineno}: assert; python -O removes it, so raise instead")
        # The public names are imported by name, and so is what a user names to a program.
        if isinstance(node, ast.Call) and room not in ("darts_tf", "bin"):
            if _dotted(node.func, names).split(".")[-1] in ("import_module", "__import__"):
                problems.append(f"{path}:{node.lineno}: an import that layering cannot see")
    for call in _calls_at_import(ast.parse(source).body):
        called = _dotted(call.func, names)
        if called.startswith("absl.flags."):
            problems.append(f"{path}:{call.lineno}: {called} at import; define flags in a function")
        if called.startswith(DEVICE_CALLS):
            problems.append(
                f"{path}:{call.lineno}: {called} at import, on every importer's devices"
            )
    return problems


DEVICE_CALLS = (
    "keras.config.set_",
    "keras.distribution.",
    "keras.mixed_precision.set_",
    "tensorflow.config.",
    "tensorflow.constant",
    "tensorflow.device",
    "tensorflow.distribute.",
    "tensorflow.random.",
    "tensorflow.Variable",
)
"""Beginnings of calls that set up devices, or have TensorFlow set them up."""


def _imported_names(source: str) -> dict[str, str]:
    """What each imported name stands for: {"tf": "tensorflow"}."""
    names = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a, `import a.b as c` binds c to a.b.
                bound = alias.asname or alias.name.split(".")[0]
                names[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what an expression like `tf.config.x` names; "" of any other."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        home = _dotted(node.value, names)
        return f"{home}.{node.attr}" if home else ""
    return ""


def _calls_at_import(nodes: list[ast.AST]) -> Iterator[ast.Call]:
    """The calls that importing a file makes: all but those in the bodies of functions."""
    for node in nodes:
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [*node.decorator_list, node.args]
        elif isinstance(node, ast.Lambda):
            inner = [node.args]
        else:
            inner = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Call):
            yield node
        yield from _calls_at_import(inner)
