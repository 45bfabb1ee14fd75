"""The source: nothing in the package unpickles, evaluates or unpacks what a file holds. The scan is tested too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pruning_bootcamp"

# Modules that are not imported at all, but where it is said why.
UNPICKLERS = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "pandas")
ALLOWED_IMPORTS = {
    ("checkpoints/files.py", "pickle"): "the name of an exception",
    ("tools/datasets/formats.py", "pickle"): "CIFAR's files are pickles: an Unpickler that refuses every name",
}
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler", "torch.hub.load", "torch.package"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.add_constructor", "yaml.add_multi_constructor"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnl", "subprocess.getoutput", "tempfile.mktemp"),
    *("shutil.unpack_archive", "torchvision.datasets.utils.extract_archive", "runpy.run_path", "runpy.run_module"),
    *("torchvision.datasets.utils.download_and_extract_archive", "numpy.lib.format.read_array", "code.interact"),
    *("omegaconf.OmegaConf.register_new_resolver", "omegaconf.OmegaConf.register_resolver", "omegaconf.OmegaConf.load"),
}
# Run what a file holds, in a language of their own: only for a file that the same command has just written.
EXPORTED = ("torch.jit.load", "torch.export.load")
BY_NAME = ("importlib.import_module", "importlib.util.spec_from_file_location")
METHODS = ("extractall", "extract", "add_constructor", "add_multi_constructor", "register_new_resolver")


def dangers(source: str, where: str) -> list[str]:
    """`line: what` of everything in the source that could run or unpack what a file holds."""
    tree = ast.parse(source)
    full_names = _imported(tree)
    found = [f"{node.lineno}: imports {name}" for node, name in _imports(tree) if _forbidden_import(name, where)]
    allowed = {id(base) for node in ast.walk(tree) if _is_restricted_unpickler(node) for base in node.bases}
    for node in ast.walk(tree):
        name = _full_name(node, full_names)
        if name in FORBIDDEN and id(node) not in allowed:
            found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in _call_dangers(node, full_names, where)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # programs for another process
            found += [f"{node.lineno}, in a text, {what}" for what in _in_text(node.value, where)]
    return sorted(set(found))


def _call_dangers(call: ast.Call, full_names: dict[str, str], where: str) -> list[str]:
    name = _full_name(call.func, full_names) or ""
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    found = []
    if name == "torch.load" and not _is(options.get("weights_only"), True):
        found.append("torch.load without weights_only=True")
    if "allow_pickle" in options:
        found.append("allow_pickle")
    if "shell" in options and not _is(options["shell"], False):
        found.append("a shell")
    if name in EXPORTED and not where.startswith("exporters/"):
        found.append(f"{name} outside of exporters/")
    if name in BY_NAME and not (call.args and isinstance(call.args[0], ast.Constant)) and not _may_import(where):
        found.append(f"{name} of a name that is not written here")
    if name == "PIL.Image.open" and "formats" not in options:
        found.append("an image of any format, PostScript too")
    if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
        found.append(f".{call.func.attr}()")
    return found


def _may_import(where: str) -> bool:
    return where in ("plugins.py", "__init__.py")  # a user's own function; the package's own names


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _imports(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def _forbidden_import(name: str, where: str) -> bool:
    if name in FORBIDDEN or name in EXPORTED:
        return True
    top = name.partition(".")[0]
    return top in UNPICKLERS and (where, top) not in ALLOWED_IMPORTS


def _imported(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it was imported as, in full."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _full_name(node: ast.AST, full_names: dict[str, str]) -> str | None:
    """`yaml.load` for `y.load` after `import yaml as y`; a bare builtin by its own name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):  # a setting may be called `compile`
        return None
    return ".".join([full_names.get(node.id, node.id), *reversed(parts)])


def _is_restricted_unpickler(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        isinstance(part, ast.FunctionDef) and part.name == "find_class" for part in node.body
    )


def _in_text(text: str, where: str) -> list[str]:
    if "import " not in text:
        return []
    try:
        return dangers(text, where)
    except (SyntaxError, ValueError):  # prose
        return []


def test_nothing_in_the_package_runs_or_unpickles_what_a_file_holds() -> None:
    found, files, loads = [], 0, 0
    for path in sorted(PACKAGE.rglob("*.py")):
        where, source = path.relative_to(PACKAGE).as_posix(), path.read_text()
        found += [f"{where}:{danger}" for danger in dangers(source, where)]
        files += 1
        loads += source.count("torch.load(") + source.count("yaml.safe_load(")
    assert files > 100
    assert loads >= 3, "the readers that this test is about are somewhere else"
    assert found == []


def test_the_files_that_may_import_pickle_still_do() -> None:
    for where, module in ALLOWED_IMPORTS:
        assert f"import {module}" in (PACKAGE / where).read_text(), f"{where} needs no exception any more"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import loads",
        "import cloudpickle",
        "import joblib",
        "from dill import load",
        "import marshal",
        "import shelve",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=flag)",
        "from torch import load\nload(p)",
        "import torch as t\nt.load(p)",
        "import torch\ntorch.jit.load(p)",
        "import torch\ntorch.hub.load('a/b', 'c')",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import yaml\nyaml.load(t, Loader=yaml.SafeLoader)",
        "import yaml\nyaml.unsafe_load(t)",
        "import yaml\nx = yaml.FullLoader",
        "class L:\n    pass\nL.add_constructor('!x', f)",
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import subprocess\nsubprocess.run(x, shell=flag)",
        "import os\nos.system(x)",
        "from os import system",
        "import tarfile\ntarfile.open(p).extractall(q)",
        "from torchvision.datasets.utils import extract_archive",
        "import tempfile\ntempfile.mktemp()",
        "from PIL import Image\nImage.open(p)",
        "from omegaconf import OmegaConf\nOmegaConf.register_new_resolver('py', eval)",
        "import pickle\nclass U(pickle.Unpickler):\n    pass",
        "program = '''\nimport torch\ntorch.load(path)\n'''",
    ],
)
def test_the_scan_finds(source: str) -> None:
    assert dangers(source, "some/module.py")


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(p, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(p)",
        "import yaml\nyaml.safe_load(t)\nclass L(yaml.SafeLoader):\n    pass",
        "model.eval()\ntorch.compile(model)\nre.compile('x')",
        "import subprocess\nsubprocess.run(['git'], check=True)",
        "import importlib\nimportlib.import_module('timm')",
        "from PIL import Image\nImage.open(p, formats=('PNG',))",
        "'''how to import a thing (and eval it)'''",
    ],
)
def test_the_scan_lets_pass(source: str) -> None:
    assert dangers(source, "some/module.py") == []


def test_the_restricted_unpickler_is_the_only_one_that_passes() -> None:
    source = "import pickle\nclass U(pickle.Unpickler):\n    def find_class(self, m, n):\n        raise ValueError\n"
    assert dangers(source, "tools/datasets/formats.py") == []
    assert dangers(source, "training/state.py")
