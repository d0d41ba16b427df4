"""The programs. Each file is one, usable by itself from a clone: ``tools/train_net.py --help``.

An installation (``pip install .``) holds this folder as the package `pycaffe_compat.tools` and puts the
programs on the path; the functions below are what its console scripts call (setup.py names them).
"""

import importlib
from functools import partial
from typing import NoReturn

from pycaffe_compat import cli


def _run(name: str) -> NoReturn:
    cli.run(importlib.import_module(f"{__name__}.{name}").main)


run_benchmark = partial(_run, "benchmark")
run_caffe = partial(_run, "caffe")
run_compute_image_mean = partial(_run, "compute_image_mean")
run_convert_imageset = partial(_run, "convert_imageset")
run_convert_leveldb = partial(_run, "convert_leveldb")
run_convert_to_onnx = partial(_run, "convert_to_onnx")
run_convert_weights = partial(_run, "convert_weights")
run_draw_net = partial(_run, "draw_net")
run_eval_net = partial(_run, "eval_net")
run_extract_features = partial(_run, "extract_features")
run_make_patches = partial(_run, "make_patches")
run_parse_log = partial(_run, "parse_log")
run_plot_log = partial(_run, "plot_log")
run_reproduce = partial(_run, "reproduce")
run_resize_and_crop_images = partial(_run, "resize_and_crop_images")
run_restore = partial(_run, "restore")
run_train_net = partial(_run, "train_net")
run_upgrade_net = partial(_run, "upgrade_net")
run_visualize_filters = partial(_run, "visualize_filters")
