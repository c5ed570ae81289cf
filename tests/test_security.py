"""What holds for the whole source: nothing is unpickled freely, and nothing talks to the network by itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import mcl
from mcl.errors import printable
from mcl.interop.model_card import _facts

SOURCES = sorted(Path(mcl.__file__).parent.rglob("*.py"))
RUNS_CODE = {"pickle.load", "pickle.loads", "np.load", "numpy.load", "torch.jit.load", "joblib.load", "yaml.load", "eval", "exec", "os.system"}
NETWORK = {"urllib", "requests", "httpx", "http", "socket", "ftplib", "smtplib", "aiohttp", "wandb"}


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node


def test_weights_and_arrays_are_loaded_without_running_code():
    for path in SOURCES:
        for name, given, _ in calls(path):
            where = f"{path.name}: {name}"
            if name == "torch.load":
                assert given.get("weights_only") == "True", where
            elif name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", where
            else:
                assert name not in RUNS_CODE and not name.endswith("Unpickler"), where
                assert given.get("shell", "False") == "False" and "trust_remote_code" not in given, where


def test_the_guard_sees_what_it_is_for():
    found = [name for path in SOURCES for name, _, _ in calls(path)]
    assert found.count("torch.load") >= 5 and "np.load" in found


def test_only_named_files_import_what_reaches_the_network():
    """timm, webdataset and datasets fetch when they are asked to; nothing else may bring a client of its own."""
    users: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in modules:
                users.setdefault(module.partition(".")[0], set()).add(path.name)
    assert not NETWORK & set(users)
    assert users.get("webdataset", set()) <= {"remote.py"} and users.get("datasets", set()) <= {"hugging_face.py"}
    assert "huggingface_hub" not in users


def test_a_run_on_local_files_opens_no_connection(tmp_path):
    """A whole pre-training with every connect() failing, in a process of its own."""
    script = """
import socket, sys
def refused(*_):
    print("CONNECTED", flush=True)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
sys.path.insert(0, TESTS)
from pathlib import Path
from images import picture_folder
import mcl
mcl.pretrain(data=picture_folder(Path(OUT) / "p", 8), out=Path(OUT) / "run", batch=4, image_size=32,
    **{"model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32, "model.embedding": 16,
       "model.head_convs": 1, "loop.workers": 0, "loop.threads": 1, "schedule.steps": 2, "loop.tensorboard": False})
print("DONE")
"""
    script = script.replace("TESTS", repr(str(Path(__file__).parent))).replace("OUT", repr(str(tmp_path)))
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert "DONE" in ran.stdout and "CONNECTED" not in ran.stdout, ran.stdout + ran.stderr


def test_text_from_a_file_cannot_become_html_in_a_model_card():
    facts = _facts({"method": "<script>alert(1)</script>", "recipe": "a|b\n# title", "steps": 3})
    assert facts["Method"] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert facts["Recipe"] == "a&#124;b\\n# title" and facts["Steps"] == "3"


def test_names_are_printed_without_control_characters():
    assert printable("ünïcode photo.jpg") == "ünïcode photo.jpg"
    assert printable("a\x1b]0;x\x07\nb\udcff") == "a\\x1b]0;x\\x07\\nb\\udcff"
