"""The hash that ties a rule to its code: its script and every library module behind it.

Snakemake does not see an edit in an imported package, so each rule carries this hash among its params. It is taken over
the syntax tree alone: comments, docstrings and imports for type checkers change nothing. A file's edge is so a cache's
edge, and scripts and library import modules, never names through a package's face.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parent
PACKAGE = LIBRARY.name


class _CodeAlone(ast.NodeTransformer):
    """Drops what does not run: strings that stand as statements, and blocks for type checkers."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else self.generic_visit(node)


def _module(dotted: str, name: str, where: Path) -> Path | None:
    """The library file that `from dotted import name` reads; None for other packages."""
    if dotted.split(".")[0] != PACKAGE:
        return None
    place = LIBRARY.joinpath(*dotted.split(".")[1:])
    for file in (place / f"{name}.py", place.with_suffix(".py")):
        if file.is_file():
            return file
    raise ImportError(f"{where}: `from {dotted} import {name}`: import it from its own module, which reruns follow")


@cache
def _parsed(path: Path, _changed: int) -> tuple[bytes, frozenset[Path]]:
    """(syntax tree, library files imported) of a file, read once: Snakemake parses the workflow anew for every job."""
    tree = _CodeAlone().visit(ast.parse(path.read_text(encoding="utf-8")))
    found = {
        file
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (file := _module(node.module or "", alias.name, path))
    }
    return ast.dump(tree).encode(), frozenset(found)


def _parse(path: Path) -> tuple[bytes, frozenset[Path]]:
    return _parsed(path, path.stat().st_mtime_ns)


def imports(path: Path) -> frozenset[Path]:
    """Library files that a file imports, directly or through others. Raises ImportError for a name from a face."""
    found: set[Path] = set()
    left = [path]
    while left:
        new = _parse(left.pop())[1] - found
        found |= new
        left += new
    return frozenset(found)


@cache
def source_hash(script: str) -> str:
    """Hash of the code of a script and of every library module that it uses."""
    path = Path(script)
    digest = hashlib.sha256()
    for file in [path, *sorted(imports(path))]:
        digest.update(_parse(file)[0])
    return digest.hexdigest()[:16]
