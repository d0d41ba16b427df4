"""What the package is, what it needs and what it puts on the path (tool settings: pyproject.toml)."""

import os
import re
import sysconfig
from importlib.metadata import distributions

from setuptools import find_packages, setup

HERE = os.path.dirname(os.path.abspath(__file__))


def read(name: str) -> str:
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def version() -> str:
    match = re.search(r'^__version__ = "([^"]+)"$', read("pycaffe_compat/version.py"), re.MULTILINE)
    assert match, "pycaffe_compat/version.py holds no version"
    return match[1]


def opencv() -> str:
    """The OpenCV distribution to require.

    Four distributions on PyPI hold the same module `cv2` and overwrite each other's files, and a requirement
    cannot say "one of these": opencv-python is what is asked for, unless another one, such as the headless one
    of machines without a display, is there already. The choice ends up in a wheel's metadata, so make wheels
    for others in a clean environment. An isolated build does not see the packages of the environment it builds
    for: hence its folders by name.
    """
    paths = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    names = (dist.metadata["Name"] or "" for dist in distributions(path=paths))
    installed = {name.lower().replace("_", "-") for name in names}
    default = "opencv-python"
    others = ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    if default in installed:
        return default
    return next((name for name in others if name in installed), default)


# tools/ is a program a file; on the path each has its file's name, but for three whose names are ordinary words
# that other packages use too (restore(8) of dump, say): those name their object, as draw_net does; and for Caffe's own.
PROGRAMS = {
    "benchmark_nets": "benchmark",
    "caffe_compat": "caffe",
    "compute_image_mean": "compute_image_mean",
    "convert_imageset": "convert_imageset",
    "convert_leveldb": "convert_leveldb",
    "convert_to_onnx": "convert_to_onnx",
    "convert_weights": "convert_weights",
    "draw_net": "draw_net",
    "eval_net": "eval_net",
    "extract_features": "extract_features",
    "make_patches": "make_patches",
    "parse_log": "parse_log",
    "plot_log": "plot_log",
    "reproduce_paper": "reproduce",
    "resize_and_crop_images": "resize_and_crop_images",
    "restore_jpeg": "restore",
    "train_net": "train_net",
    "upgrade_net": "upgrade_net",
    "visualize_filters": "visualize_filters",
}

# Folders of the checkout that an installation holds inside the package.
MAPPED = {f"pycaffe_compat.{folder}": folder for folder in ("prototxt", "models", "tools")}
MAPPED = {package: folder for package, folder in MAPPED.items() if os.path.isdir(os.path.join(HERE, folder))}

setup(
    name="pycaffe-compat",
    version=version(),
    description="Caffe nets, weights and solvers on PyTorch, and JPEG artifact removal networks made with it",
    long_description=read("README.md") if os.path.exists(os.path.join(HERE, "README.md")) else "",
    long_description_content_type="text/markdown",
    license_expression="BSD-2-Clause",
    license_files=["LICENSE"],
    keywords=["caffe", "prototxt", "caffemodel", "pytorch", "onnx", "jpeg", "artifact removal"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["pycaffe_compat", "pycaffe_compat.*"]), *MAPPED],
    package_dir=MAPPED,
    package_data={
        "pycaffe_compat": ["py.typed"],
        "pycaffe_compat.proto": ["*.proto", "*.desc", "*.pyi"],
        "pycaffe_compat.prototxt": ["*"],
        "pycaffe_compat.models": ["*", "*/*", "*/*/*"],
    },
    include_package_data=False,  # a list above says what travels, whatever else lies in the folders
    zip_safe=False,  # nets and weights are opened by path
    python_requires=">=3.11",
    # Lower bounds are versions that the tests passed with (matplotlib before 3.11: all but the one that wants
    # SVG files equal to the byte); requirements.lock holds those of today.
    install_requires=[
        "h5py>=3.11",
        "lmdb>=3.0",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "onnx>=1.17",
        "onnxruntime>=1.20",
        "onnxscript>=0.6",
        f"{opencv()}>=4.10",
        "pillow>=11.0",
        "protobuf>=5.26",
        "safetensors>=0.4.2",
        "torch>=2.13",
        "tqdm>=4.66",
    ],
    extras_require={
        "demo": ["scikit-image>=0.25"],
        "leveldb": ["plyvel>=1.5"],
        "test": ["hypothesis>=6.100", "plyvel>=1.5", "pytest>=8.2", "pytest-xdist>=3.6", "scikit-image>=0.25"],
    },
    entry_points={
        "console_scripts": [f"{name} = pycaffe_compat.tools:run_{tool}" for name, tool in PROGRAMS.items()],
    },
)
