"""Nets and weights are found in a checkout and in an installation alike, and nothing else is."""

import os
from pathlib import Path

import pytest

from pycaffe_compat import resources

ROOT = Path(__file__).resolve().parent.parent


def test_checkout() -> None:
    assert os.path.samefile(resources.root(), ROOT)
    found = resources.find("prototxt", "l4.prototxt")
    assert found is not None and os.path.samefile(found, ROOT / "prototxt" / "l4.prototxt")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder as an installation has it, with a stranger's `prototxt` beside it."""
    package = tmp_path / "site-packages" / "pycaffe_compat"
    ours = ("prototxt/l4.prototxt", "models/l4/weights.caffemodel", "secret")
    for file in (*ours, "../prototxt/theirs.prototxt"):
        path = package / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.setattr(resources, "_PACKAGE", str(package))
    return package


@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("prototxt", "l4.prototxt", "prototxt/l4.prototxt"),
        ("prototxt", "prototxt/l4.prototxt", "prototxt/l4.prototxt"),
        ("prototxt", Path("l4.prototxt"), "prototxt/l4.prototxt"),
        ("prototxt", "./l4.prototxt", "prototxt/l4.prototxt"),
        ("models", "l4", "models/l4"),
        ("models", "l4/weights.caffemodel", "models/l4/weights.caffemodel"),
    ],
)
def test_found_in_an_installation(installed: Path, kind: str, name: str, path: str) -> None:
    assert resources.root() == str(installed)
    assert resources.find(kind, name) == str(installed / path)


@pytest.mark.parametrize(
    "name",
    ["", ".", "prototxt", "no.prototxt", "theirs.prototxt", "../secret", "x/../../secret", "/etc/passwd"],
)
def test_not_found(installed: Path, name: str) -> None:
    assert resources.find("prototxt", name) is None


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", str(tmp_path / "pycaffe_compat"))
    assert resources.find("prototxt", "l4.prototxt") is None
    with pytest.raises(FileNotFoundError, match="missing"):
        resources.root()


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="prototxt, models"):
        resources.find("tools", "train_net.py")


def test_a_net_is_a_path_or_a_name_in_prototxt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resources.net_path("l4.prototxt").endswith(os.path.join("prototxt", "l4.prototxt"))
    (tmp_path / "l4.prototxt").touch()
    assert resources.net_path("l4.prototxt") == "l4.prototxt"
    assert resources.net_path("no_such_net.prototxt") == "no_such_net.prototxt"
