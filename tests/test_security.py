"""What holds for the whole source: nothing is unpickled freely, and nothing talks to the network by itself."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import mcl
from images import picture_folder, refuse_network
from mcl.errors import printable
from mcl.interop.timm.model_card import _facts

SOURCES = sorted(Path(mcl.__file__).parent.rglob("*.py"))
RUNS_CODE = {"pickle.load", "pickle.loads", "np.load", "numpy.load", "torch.jit.load", "joblib.load", "yaml.load", "eval", "exec", "os.system"}
NETWORK = {"urllib", "requests", "httpx", "http", "socket", "ftplib", "smtplib", "aiohttp", "wandb"}


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    kinds = (ast.Call, ast.Import, ast.ImportFrom)
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds)]


def calls(path: Path):
    for node in nodes(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_weights_and_arrays_are_loaded_without_running_code():
    for path in SOURCES:
        for name, given in calls(path):
            where = f"{path.name}: {name}"
            if name == "torch.load":
                assert given.get("weights_only") == "True", where
            elif name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", where
            else:
                assert name not in RUNS_CODE and not name.endswith("Unpickler"), where
                assert given.get("shell", "False") == "False" and "trust_remote_code" not in given, where


def test_the_guard_sees_what_it_is_for():
    found = [name for path in SOURCES for name, _ in calls(path)]
    assert found.count("torch.load") >= 4 and "np.load" in found


def test_only_named_files_import_what_reaches_the_network():
    """timm, webdataset and datasets fetch when they are asked to; nothing else may bring a client of its own."""
    users: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in nodes(path):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in modules:
                users.setdefault(module.partition(".")[0], set()).add(path.name)
    assert not NETWORK & set(users)
    assert users.get("webdataset", set()) <= {"remote.py"} and users.get("datasets", set()) <= {"hugging_face.py"}
    assert users.get("huggingface_hub", set()) <= {"hub.py"}  # mcl push, which is asked for


def test_a_run_on_local_files_opens_no_connection(tmp_path, monkeypatch):
    attempts = refuse_network(monkeypatch)
    mcl.pretrain(
        data=picture_folder(tmp_path / "photos", 8), out=tmp_path / "run", batch=4, image_size=32,
        **{"model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32, "model.embedding": 16,
           "model.head_convs": 1, "loop.workers": 0, "loop.threads": 1, "schedule.steps": 2, "loop.tensorboard": False},
    )  # fmt: skip
    assert (tmp_path / "run/trunk.safetensors").is_file() and not attempts


def test_text_from_a_file_cannot_become_html_in_a_model_card():
    facts = _facts({"method": "<script>alert(1)</script>", "recipe": "a|b\n# title", "steps": 3})
    assert facts["Method"] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert facts["Recipe"] == "a&#124;b\\n# title" and facts["Steps"] == "3"


def test_facts_of_other_types_than_ours_are_left_out_of_a_model_card():
    facts = _facts({"method": "mcl", "cost": {"seconds": "x", "images": [1]}, "data_images": "many"})
    assert facts == {"Method": "mcl"} and _facts({"cost": [3]}) == {"Origin": "not recorded"}


def test_names_are_printed_without_control_characters():
    assert printable("ünïcode photo.jpg") == "ünïcode photo.jpg"
    assert printable("a\x1b]0;x\x07\nb\udcff") == "a\\x1b]0;x\\x07\\nb\\udcff"
