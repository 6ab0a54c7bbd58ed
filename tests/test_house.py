"""The rules of the house, read off the syntax trees: layers, heavy imports, docstrings, help."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "annotate"

LAYERS = [  # imports point down, or sideways within a layer
    "errors records shipped plugins ledger",
    "masks outlines lines items prompts palette shapes colours strokes looks windows",
    "ahead decoding film pictures folders drafts cut_short upright video video_writer journal",
    "manifest download sources weights adopt",
    "sample detect segment checkpoint flags boxes from_boxes passes propagate update",
    "device memory memory_attention follow sam2_network sam2_model transformers_network "
    "phrasing example slices text_features ultralytics_network",
    "abreast features guided kin place ridge apart refine clicked seeds views search whole prior "
    "flash redrawn found_again present tracker",
    "patience endpoints spending answer_cache answers model_notes questions convention",
    "chat calibrate found moondream_client moondream_local fusion embed networks plane autoencoder",
    "colour_layout imprint scene_store scene_search scenes "
    "glance ignore ssim hashes diverse quality shots stretches duplicates sift",
    "clips folder dataset chosen choosing split foreign exports score footage truth matching",
    "detectors propagators segmenters formats prefilter members",
    "pointing score_calibration calibrate_scores atlas",
    "labelstudio ls_config brush regions staging tasks sending push said pull corrections "
    "video_tasks reels",
    "studio studio_env studio_doctor",
    "paint view sheet preview changes prompted markers draw colour_report console doctor demo "
    "review sprites atlas_page poster alike asking settling nearness find hits find_truth gallery",
    "trial columns compare compare_pictures phrases describers study study_words study_report",
    "options commands_clip commands_dataset commands_compare commands_about commands_ask "
    "commands_models commands_studio commands_map commands_find commands_frames commands_scenes",
    "cli __main__",
]
LAYER = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms.split()}
LAYER["annotate"] = 0  # __init__: the version

# Imported where they run: a command that does not need them must not wait for them.
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "ultralytics",
    "sam2",
    "timm",
    "onnxruntime",
    "openvino",
    "pandas",
    "matplotlib",
    "sklearn",
    "skimage",
    "scenedetect",
    "spacy",
    "openai",
    "moondream",
    "huggingface_hub",
    "label_studio_sdk",
    "scipy",
}
PLUGINS = {"detectors", "propagators", "segmenters", "formats"}  # loaded only when they run

SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    """The room's name: `detectors` for annotate/detectors/colour.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "annotate" if first == "__init__" else first


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node):
    """The modules that an import statement names, as dotted names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.module == "annotate":
        return [f"annotate.{alias.name}" for alias in node.names]
    return [node.module or ""]


def all_imports(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def module_level(tree):
    """Import statements that run when the module is imported."""
    return [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = LAYER[room_of(path)]
    for node in all_imports(tree_of(path)):
        assert getattr(node, "level", 0) == 0, f"{path}:{node.lineno}: a relative import"
        for name in imports(node):
            if name.startswith("annotate.") and name != "annotate.__version__":
                room = name.split(".")[1]
                assert LAYER[room] <= own, f"{path}:{node.lineno}: {name} is above"
                if room in PLUGINS and room_of(path) in PLUGINS:
                    own_parts = f"annotate.{room}.{path.stem}"
                    assert name.startswith(own_parts), f"{path}:{node.lineno}: not its own part"


def test_no_room_needs_itself():
    """Sideways imports are allowed within a layer, circles are not."""
    needs = {room: set() for room in LAYER}
    for path in SOURCES:
        for node in module_level(tree_of(path)):
            rooms = {n.split(".")[1] for n in imports(node) if n.startswith("annotate.")}
            needs[room_of(path)] |= rooms - {room_of(path), "__version__"}
    while needs:
        free = {room for room, wants in needs.items() if not wants & set(needs)}
        assert free, f"a circle among {sorted(needs)}"
        needs = {room: wants for room, wants in needs.items() if room not in free}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_heavy_is_imported_with_a_module(path):
    heavy = HEAVY - {"scipy"} if room_of(path) in PLUGINS else HEAVY
    for node in module_level(tree_of(path)):
        for name in imports(node):
            assert name.split(".")[0] not in heavy, f"{path}:{node.lineno}: {name}"


def test_the_command_line_answers_without_arrays():
    """What `annotate --help` imports: neither numpy nor anything that brings it."""
    probe = "import sys, annotate.cli.app; print([m for m in sys.modules if m in {'numpy', 'rich', 'cv2'}])"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def definitions(tree):
    """Public classes and functions, and the public methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                inside = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                yield from (n for n in inside if not n.name.startswith("_"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_public_name_is_explained_and_typed(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{path}: no docstring"
    for node in definitions(tree):
        where = f"{path}:{node.lineno}: {node.name}"
        assert ast.get_docstring(node), f"{where}: no docstring"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None]
            assert set(untyped) <= {"self", "cls"}, f"{where}: {untyped} without types"
            assert node.returns is not None, f"{where}: no return type"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300, f"{path}: over 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{path}:{node.lineno}: {node.name} has {length} lines"


def commands():
    from annotate.cli.app import app

    return list(walk(typer.main.get_command(app), ""))


def walk(group, before):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from walk(command, f"{before}{name} ")
        else:
            yield before + name, command


REFERENCE = ROOT / "docs" / "commands.md"


@pytest.mark.parametrize("name, command", commands(), ids=[name for name, _ in commands()])
def test_every_command_and_option_is_explained(name, command):
    """Each has help, and stands in docs/commands.md."""
    assert command.help, f"{name}: no help"
    _, _, section = REFERENCE.read_text(encoding="utf-8").partition(f"# `annotate {name}`\n")
    section = section.partition("\n#")[0]
    assert section, f"{name} is not in {REFERENCE}"
    for option in command.params:
        if option.name == "help":
            continue
        assert option.help, f"{name}: {option.name}: no help"
        for flag in option.opts:
            assert flag in section, f"{name}: {flag} is not in {REFERENCE}"


def test_only_conventional_folders_stand_at_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    folders = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    ours = {"annotate", "prompts", "models", "tests", "notebooks", "benchmarks"}
    assert folders <= ours | {".ci", "docs"}
