"""What an sdist and a wheel hold, and that an installation works away from the checkout.

Nothing here uses the network: wheels are built with the setuptools at hand, and the environment that the
wheel is installed into borrows the dependencies of the one that runs the tests.
"""

import configparser
import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import setuptools
import skimage.data
from packaging.requirements import Requirement

from pycaffe_compat.version import __version__

ROOT = Path(__file__).resolve().parent.parent
# What may lie at the top of a checkout and is no part of it.
SKIPPED = shutil.ignore_patterns(
    ".git", ".venv", "demo", "data", "snapshots", "build", "dist", "*.egg-info", ".*_cache", ".hypothesis"
)


def files_of(folder: str, pattern: str = "*") -> set[str]:
    """Files of a folder of the checkout, relative to the checkout, caches left out."""
    found = (path for path in (ROOT / folder).rglob(pattern) if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def checked(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    # A copy, since building writes into the folder.
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
        elif path.name not in SKIPPED(str(ROOT), [path.name]):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    checked([sys.executable, "-c", code], cwd=folder)
    (archive,) = folder.glob("dist/*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that a file which is missing there is missed here."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    checked([*pip, "--wheel-dir", str(folder), str(sdist)])
    (archive,) = folder.glob("*.whl")
    return archive


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment's folder of programs; the package is the wheel's, its dependencies are this run's."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    site = sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)})
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    checked([*pip, "--no-deps", "--no-index", str(wheel)])
    # Behind the environment's own packages; .pth files there (a link to the checkout) do not count.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return home / "bin"


def test_sdist_holds_what_it_takes_to_build_and_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "CITATION.cff", "setup.py", "pyproject.toml", "requirements.lock", "Makefile"}
    for folder in ("prototxt", "models", "tests", "pycaffe_compat", "tools"):
        if (ROOT / folder).is_dir():
            wanted |= {name for name in files_of(folder) if not name.endswith((".pyc", ".pyo"))}
    assert wanted - names == set()


def test_wheel_holds_nets_weights_and_programs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = files_of("pycaffe_compat", "*.py") | {"pycaffe_compat/py.typed"}
    wanted |= files_of("pycaffe_compat", "*.proto") | files_of("pycaffe_compat", "*.desc")
    for folder in ("prototxt", "models", "tools"):
        if (ROOT / folder).is_dir():
            wanted |= {f"pycaffe_compat/{name}" for name in files_of(folder)}
    assert wanted - names == set()
    others = {name for name in names if not name.startswith(("pycaffe_compat/", "pycaffe_compat-"))}
    assert others == set(), "a wheel must not put anything beside its package"


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "pycaffe-compat"
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "BSD-2-Clause"
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert len([line for line in required if line.startswith("opencv")]) == 1
    assert all(">=" in line for line in required), "every requirement has a lower bound"


def test_every_program_is_on_the_path(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(name).decode())
    started = {target.rpartition(":run_")[2] for target in parser["console_scripts"].values()}
    # demo.py is a tour of a checkout and stays there.
    assert started == {Path(file).stem for file in files_of("tools", "[!_]*.py")} - {"demo"}


def test_lock_satisfies_the_requirements(wheel: Path) -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    locked = {name.lower().replace("_", "-"): number for name, number in locked.items()}
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    for line in email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        name = requirement.name.lower()
        if name.startswith("opencv"):
            name = "opencv-python-headless"
        assert requirement.specifier.contains(locked[name]), line


def test_installed_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = """if True:
        from pycaffe_compat import resources
        print(resources.__file__, resources.root(), resources.find("prototxt", "l4.prototxt"), sep="\\n")
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shown = checked([str(installed / "python"), "-c", code], cwd=tmp_path, env=environment)
    package, root, net = shown.splitlines()
    home = str(installed.parent)
    assert package.startswith(home) and root.startswith(home) and net.startswith(home)
    assert Path(net).read_bytes() == (ROOT / "prototxt" / "l4.prototxt").read_bytes()


@pytest.mark.slow
def test_installed_programs_make_train_score_and_restore(installed: Path, tmp_path: Path) -> None:
    """The path of a user who has the package and no checkout, a training of two iterations long."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    camera = Path(skimage.data.__file__).parent / "camera.png"

    def program(name: str, *arguments: str) -> str:
        return checked([str(installed / name), *arguments], cwd=tmp_path, env=environment)

    # The names that prototxt/l4.prototxt gives its databases.
    net = (ROOT / "prototxt" / "l4.prototxt").read_text()
    for source in re.findall(r'source: "(.+)\.txt"', net):
        program("make_patches", "--images", str(camera), "--count", "64", "--output", source)
    program("train_net", "--solver", "solver_l4_quick.prototxt", "--max_iter", "2")
    (weights,) = map(str, tmp_path.glob("snapshots/*_iter_2.caffemodel"))
    network = ["--model", "l4.prototxt", "--weights", weights]
    table = program("eval_net", *network, "--names", "L4", "--images", str(camera), "--quality", "10")
    assert {"distorted", "spp", "L4"} <= {line.split()[0] for line in table.splitlines() if line}
    program("convert_to_onnx", *network, "--output", "l4.onnx", "--image-in-out")
    program("restore_jpeg", "--net", "l4.prototxt", "--weights", weights, str(camera), "restored.png")
    assert (tmp_path / "l4.onnx").stat().st_size > 0
    assert (tmp_path / "restored.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("installed_already", "required"),
    [
        ([], "opencv-python"),
        (["opencv_python_headless"], "opencv-python-headless"),
        (["opencv_python"], "opencv-python"),
        (["numpy", "opencv_contrib_python"], "opencv-contrib-python"),
        (["opencv_python", "opencv_python_headless"], "opencv-python"),
    ],
)
def test_an_installed_opencv_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed_already: list[str], required: str
) -> None:
    for name in installed_already:
        folder = tmp_path / f"{name}-5.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 5.0\n")
    asked: dict[str, list[str]] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **settings: asked.update(settings))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    runpy.run_path(str(ROOT / "setup.py"))
    (found,) = (line for line in asked["install_requires"] if line.startswith("opencv"))
    assert found.partition(">=")[0] == required


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A stand-in for a checkout: a program in tools/ that says which package and arguments it got."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "pycaffe_compat.py").write_text("NAME = 'the package'\n")
    shutil.copy(ROOT / "tools" / "_checkout.py", tmp_path / "tools")
    program = "if not __package__:\n    import _checkout\nimport sys, pycaffe_compat\n"
    (tmp_path / "tools" / "program.py").write_text(program + "print(pycaffe_compat.NAME, *sys.argv[1:])\n")
    return tmp_path


def start(clone: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-E", *flags, "tools/program.py", "--solver", "a b"]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)


def test_program_of_a_checkout_runs_where_everything_is_installed(clone: Path) -> None:
    done = start(clone)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the package --solver a b\n", "")


def test_program_of_a_checkout_says_when_nothing_is_installed(clone: Path) -> None:
    done = start(clone, "-S")  # no site-packages: an interpreter without PyTorch
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert " lacks torch, numpy, " in done.stderr and f"run `make` in {clone} first" in done.stderr


def test_program_of_a_checkout_starts_again_under_its_venv(clone: Path) -> None:
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "again:" "$@"\n')
    python.chmod(0o755)
    done = start(clone, "-S")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "again: -E -S tools/program.py --solver a b\n"


def test_half_made_venv_does_not_start_itself_for_ever(clone: Path) -> None:
    venv.create(clone / ".venv", with_pip=False, symlinks=True)
    done = start(clone, "-S")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {clone}/.venv/bin/python lacks torch")
