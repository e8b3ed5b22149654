"""The package around the director: stubs, documentation, examples."""

import ast
import doctest
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import lvs
import lvs._lvs

ROOT = Path(__file__).parent.parent


def test_the_stub_is_what_is_compiled():
    command = [sys.executable, "-m", "mypy.stubtest", "lvs", "--mypy-config-file", str(ROOT / "pyproject.toml")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_package_and_its_example_have_right_types():
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    run = subprocess.run(
        [*command, str(ROOT / "python/lvs"), str(ROOT / "examples/balance.py")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_stub_and_module_document_the_same():
    stub = ast.parse(Path(lvs.__file__).with_name("_lvs.pyi").read_text())
    documented = 0
    for node in (node for node in stub.body if isinstance(node, ast.ClassDef)):
        compiled = getattr(lvs._lvs, node.name)
        assert ast.get_docstring(node) == inspect.getdoc(compiled)
        for member in (member for member in node.body if isinstance(member, ast.FunctionDef)):
            if not member.name.startswith("__"):
                assert ast.get_docstring(member) == inspect.getdoc(getattr(compiled, member.name)), member.name
                documented += 1
    public = [n for c in ("Connection", "Director", "Verdict") for n in vars(getattr(lvs, c)) if n[0] != "_"]
    assert documented == len(public)


def test_the_doctest_of_the_package():
    result = doctest.testmod(lvs)
    assert result.attempted > 5 and result.failed == 0


def test_the_readmes_example(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "server: 10.0.2.11:8080 by Masq" in capsys.readouterr().out


def test_the_example_balances_by_weight(capsys):
    runpy.run_path(str(ROOT / "examples/balance.py"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["10.0.2.11", "250"], ["10.0.2.12", "750"]]
