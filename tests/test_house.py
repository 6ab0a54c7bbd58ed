"""Check the rules of structure on the syntax trees: floors, circles, sizes, names, texts.

The only thing to edit for a new package is its row in FLOORS; a new file needs no edit.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

from command_tree import all_commands

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "annotate"

# Packages and top modules, from the lowest floor up. An import goes to a lower floor, or stays in
# its package.
FLOORS = [
    "errors",
    "locking",
    "plugins files device palette progress",
    "items",
    "video weights vocabulary backbone",
    "prompts embeddings vlm sam2",
    "detectors propagators segmenters",
    "dataset",
    "viewing labelstudio",
    "sampling evaluation",
    "training",
    "active_learning",
    "learning_curve",
    "scenes footage_map search",
    "web",
    "batch testing api installation",
    "cli",
    "__main__",
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
DOOR = "annotate"  # annotate/__init__.py: may define and import, lazily, what a Python user needs

# Imported in the function that needs them: a command that does not must not wait for them.
HEAVY = {
    "huggingface_hub",
    "label_studio_sdk",
    "matplotlib",
    "moondream",
    "onnx",
    "onnxruntime",
    "openai",
    "openvino",
    "pandas",
    "ray",
    "s3fs",
    "scenedetect",
    "scipy",
    "sam2",
    "skimage",
    "sklearn",
    "spacy",
    "timm",
    "torch",
    "torchvision",
    "transformers",
    "ultralytics",
}
PLUGIN_PACKAGES = {"detectors", "propagators", "segmenters"}  # loaded when they run: scipy is fine

MAX_FILE_LINES, MAX_BODY_LINES, MAX_PACKAGE_FILES = 400, 40, 12
MIN_LINES_WITH_ONE_IMPORTER = 45
SHARED_CLASS_NAMES = {"Job", "Session"}  # one in each package that has jobs, or sessions
STOP_WORDS = {"told", "said", "kin", "akin", "anew", "whose", "thing", "abreast", "likest"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
LIBRARY = [
    path for path in SOURCES if path.relative_to(PACKAGE).parts[0] not in ("cli", "__main__.py")
]


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path):
    """The dotted name: `annotate.video.reader`; of a package's __init__, the package's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def package_of(module):
    """What FLOORS lists: `video` for annotate.video.reader, `errors` for annotate.errors."""
    return module.split(".")[1] if "." in module else DOOR


def where(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def import_statements(path):
    """All of them: of the module, of functions, and those for type checkers only."""
    return [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Import | ast.ImportFrom)]


def imported_names(node):
    """The dotted names that an import statement names, ours and others'."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if f"{node.module}" in MODULES:
        return [
            name if (name := f"{node.module}.{alias.name}") in MODULES else node.module
            for alias in node.names
        ]
    return [node.module or ""]


@cache
def own_imports(module):
    """Our modules that a module imports, lazily or not, with a statement that does it."""
    found = {}
    for node in import_statements(MODULES[module]):
        for name in imported_names(node):
            if name in MODULES and name not in (DOOR, module):
                found[name] = node
    return found


def test_imports_are_absolute_and_go_to_a_lower_floor():
    wrong = []
    for module, path in MODULES.items():
        wrong += [f"{where(path, n)}: a relative import" for n in import_statements(path)
                  if getattr(n, "level", 0)]  # fmt: skip
        if module == DOOR:
            continue
        own = package_of(module)
        for name, node in own_imports(module).items():
            other = package_of(name)
            if other != own and FLOOR[other] >= FLOOR[own]:
                wrong.append(f"{where(path, node)}: {name} is not below {own}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_floor():
    packages = {package_of(module) for module in MODULES} - {DOOR}
    assert packages <= set(FLOOR), packages - set(FLOOR)


def test_no_modules_import_each_other_in_a_circle():
    """Lazy imports and those for type checkers are counted."""
    left = {module: set(own_imports(module)) for module in MODULES if module != DOOR}
    while left:
        free = {module for module, needs in left.items() if not needs & set(left)}
        if not free:
            break
        left = {module: needs for module, needs in left.items() if module not in free}
    # what only imports a circle is not in it
    while True:
        imported = {name for needs in left.values() for name in needs}
        if set(left) <= imported:
            break
        left = {module: needs for module, needs in left.items() if module in imported}
    circle = [
        f"{module} -> {', '.join(sorted(needs & set(left)))}" for module, needs in left.items()
    ]
    assert not circle, "\n".join(circle)


def test_init_files_define_nothing():
    wrong = []
    for path in SOURCES:
        if path.name == "__init__.py" and module_name(path) != DOOR:
            body = tree_of(path).body
            if not (len(body) == 1 and ast.get_docstring(tree_of(path))):
                wrong.append(f"{path.relative_to(ROOT)}: more than a docstring")
    assert not wrong, "\n".join(wrong)


def test_nothing_heavy_is_imported_with_a_module():
    wrong = []
    for module, path in MODULES.items():
        heavy = HEAVY - {"scipy"} if package_of(module) in PLUGIN_PACKAGES else HEAVY
        for node in tree_of(path).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                wrong += [f"{where(path, node)}: {name}" for name in imported_names(node)
                          if name.split(".")[0] in heavy]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def plugin_classes():
    """Class name -> the package that it is in, of every registered plugin."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    ours = [group for name, group in groups.items() if name.startswith("annotate.")]
    targets = [target.split(":") for group in ours for target in group.values()]
    return {name: package_of(module) for module, name in targets}


def names_in(tree):
    """Each name, attribute and imported name in a module, with its node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, alias.name) for alias in node.names)


def test_only_plugins_makes_plugins():
    """A plugin is made by its name, as a stranger's is; only its own package knows its class."""
    wrong, classes = [], plugin_classes()
    for module, path in MODULES.items():
        wrong += [
            f"{where(path, node)}: {name}"
            for node, name in names_in(tree_of(path))
            if name in classes and classes[name] != package_of(module)
        ]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_answers_without_arrays():
    """What `annotate --help` imports: neither numpy nor anything that brings it."""
    probe = "import sys, annotate.cli.app; print(sorted({'numpy', 'rich', 'cv2'} & {*sys.modules}))"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def is_overload(node):
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in decorators)


def definitions(tree):
    """Public classes and functions, and the public methods of public classes."""
    for node in tree.body:
        if is_overload(node):
            continue
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                inside = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                yield from (n for n in inside if not n.name.startswith("_"))


def arguments_of(function):
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def test_every_public_name_is_explained_and_typed():
    wrong = []
    for path in SOURCES:
        if not ast.get_docstring(tree_of(path)):
            wrong.append(f"{path.relative_to(ROOT)}: no docstring")
        for node in definitions(tree_of(path)):
            at = f"{where(path, node)}: {node.name}"
            if not ast.get_docstring(node):
                wrong.append(f"{at}: no docstring")
            if isinstance(node, ast.FunctionDef):
                untyped = {a.arg for a in arguments_of(node) if a.annotation is None}
                wrong += [f"{at}: {untyped} without types"] if untyped - {"self", "cls"} else []
                wrong += [f"{at}: no return type"] if node.returns is None else []
    assert not wrong, "\n".join(wrong)


def test_public_class_names_are_unique():
    places = defaultdict(list)
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(where(path, node))
    shared = {name: at for name, at in places.items() if len(at) > 1}
    wrong = [
        f"{name}: {', '.join(at)}" for name, at in shared.items() if name not in SHARED_CLASS_NAMES
    ]
    assert not wrong, "\n".join(wrong)


def public_words(path):
    """The words in a module's name and in the public names in it, with the line of each."""
    yield 1, path.stem
    for node in definitions(tree_of(path)):
        yield node.lineno, node.name
        if isinstance(node, ast.FunctionDef):
            yield from ((a.lineno, a.arg) for a in arguments_of(node))
        else:
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            yield from ((f.lineno, f.target.id) for f in fields if not f.target.id.startswith("_"))


def test_public_names_hold_no_riddles():
    wrong = []
    for path in SOURCES:
        for line, name in public_words(path):
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
            if words & STOP_WORDS:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


def texts_of(path):
    """The text constants of a module, without docstrings."""
    docstrings = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            docstrings.add(id(node.body[0].value))
    for node in ast.walk(tree_of(path)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node


FLAG = re.compile(r"(?:^|[\s`(])(?:--[a-z][a-z-]+|-[a-z])(?=[\s`),;:]|$)")
OTHER_PROGRAMS = re.compile(r"\b(?:pip|uv|python|ffmpeg|label-studio)\b")


def test_library_texts_name_arguments_and_not_command_line_flags():
    """The command line adds the flags; what another program is called with is another thing."""
    wrong = []
    for path in LIBRARY:
        for node in texts_of(path):
            alone = re.fullmatch(r"-[\w-]+", node.value)  # an argument for another program
            if FLAG.search(node.value) and not alone and not OTHER_PROGRAMS.search(node.value):
                wrong.append(f"{where(path, node)}: {node.value.strip()[:70]!r}")
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_small():
    wrong = []
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_FILE_LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                length = node.end_lineno - body[0].lineno + 1 if body else 0
                if length > MAX_BODY_LINES:
                    wrong.append(f"{where(path, node)}: {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)


def test_packages_stay_small():
    count = Counter(path.parent for path in SOURCES if path.stem not in ("__init__", "__main__"))
    wrong = [f"{p.relative_to(ROOT)}: {n} files" for p, n in count.items() if n > MAX_PACKAGE_FILES]
    assert not wrong, "\n".join(wrong)


def test_no_file_exists_only_to_keep_another_short():
    importers = defaultdict(set)
    for module in MODULES:
        for name in own_imports(module):
            importers[name].add(module)
    wrong = []
    for module, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").count("\n")
        single = len(importers[module]) == 1 and path.name != "__init__.py"
        if single and lines < MIN_LINES_WITH_ONE_IMPORTER:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines for {importers[module].pop()}")
    assert not wrong, "\n".join(wrong)


def reference():
    """The page that documents the commands."""
    pages = list((ROOT / "docs").rglob("commands.md"))
    assert len(pages) == 1, pages
    return pages[0]


def test_every_command_and_option_is_explained():
    """Each has help, and stands in the page of the commands."""
    wrong = []
    page = reference().read_text(encoding="utf-8")
    for name, command in all_commands():
        wrong += [] if command.help else [f"{name}: no help"]
        _, _, section = page.partition(f"# `annotate {name}`\n")
        section = section.partition("\n#")[0]
        wrong += [] if section else [f"{name} is not in {reference().name}"]
        for option in command.params:
            if option.name != "help":
                wrong += [] if option.help else [f"{name}: {option.name}: no help"]
                missing = [flag for flag in option.opts if section and flag not in section]
                wrong += [f"{name}: {flag} is not in {reference().name}" for flag in missing]
    assert not wrong, "\n".join(wrong)


def test_only_conventional_folders_stand_at_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    folders = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    ours = {"annotate", "prompts", "models", "tests", "notebooks", "benchmarks"}
    assert folders <= ours | {".ci", ".github", "docs"}
