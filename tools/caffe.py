#!/usr/bin/env python3
"""Caffe's command line, and what people with old models need beside it.

    tools/caffe.py train -solver solver.prototxt [-snapshot S | -weights W] [-gpu 0]     as tools/train_net.py
    tools/caffe.py test -model net.prototxt -weights w.caffemodel -iterations 100
    tools/caffe.py time -model net.prototxt -iterations 10
    tools/caffe.py device_query -gpu all

    tools/caffe.py doctor net.prototxt w.caffemodel             all that keeps it from running, by file and line
    tools/caffe.py convert net.prototxt w.caffemodel out.onnx   with proof, layer by layer
    tools/caffe.py upgrade old.prototxt new.prototxt            as tools/upgrade_net.py
    tools/caffe.py summary net.prototxt                         shapes, parameters, multiply-adds, receptive fields
    tools/caffe.py diff a.prototxt b.prototxt                   two nets, or two .caffemodel or .h5

Flags of the first four may be written as in Caffe: -solver x, --solver=x, in front of the command or behind it. Those
of Caffe's that a command has no use for, and glog's but -minloglevel, do nothing. An installation has the program as
caffe_compat. `COMMAND --help` tells its arguments.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from pycaffe_compat import brew, cli, gpu, log, resources
from pycaffe_compat.data.transform import read_mean
from pycaffe_compat.doctor import ERROR, NOTE, WARNING, examine
from pycaffe_compat.errors import CaffeError, DataError
from pycaffe_compat.export import EveryLayer, Preprocessing, Proof, check_filled, convert
from pycaffe_compat.files import file_digest
from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.inputs import as_inputs
from pycaffe_compat.netdiff import diff_nets, diff_weights, is_weights
from pycaffe_compat.plugins import import_modules
from pycaffe_compat.proto.dialects import NAMES
from pycaffe_compat.proto.text import read_net
from pycaffe_compat.summary import format_table, summarize
from pycaffe_compat.weights import read_weights

FLAGS = (
    "gpu",
    "solver",
    "model",
    "phase",
    "level",
    "stage",
    "snapshot",
    "weights",
    "iterations",
    "sigint_effect",
    "sighup_effect",
)
"""Caffe's own."""
USED = {
    "train": {"gpu", "solver", "level", "stage", "snapshot", "weights", "sigint_effect", "sighup_effect"},
    "test": {"gpu", "model", "level", "stage", "weights", "iterations"},
    "time": {"gpu", "model", "phase", "level", "stage", "iterations"},
    "device_query": {"gpu"},
}
"""Which of them each command has a use for; the others may be given to it all the same."""
GLOG = ("log_backtrace_at", "log_dir", "log_link", "logbuflevel", "logbufsecs", "max_log_size", "minloglevel",
        "stderrthreshold", "v", "vmodule")  # fmt: skip
GLOG_SWITCHES = ("alsologtostderr", "colorlogtostderr", "drop_log_memory", "log_prefix", "logtostderr",
                 "stop_logging_if_full_disk")  # fmt: skip
"""glog's flags, with a value and without."""
PHASES = {"TRAIN": TRAIN, "TEST": TEST}


def as_argparse(argv: Sequence[str]) -> list[str]:
    """The arguments with the command first and Caffe's spellings of its flags brought to one."""
    words = list(argv)
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 1 if "=" in words[at] or words[at].lstrip("-") not in FLAGS + GLOG else 2
    if at < len(words):
        words.insert(0, words.pop(at))
    return heeded(words[0], words[1:]) if words and words[0] in USED else words


def heeded(command: str, words: Sequence[str]) -> list[str]:
    """A command of Caffe's without those of Caffe's and glog's flags that it has no use for."""
    switches = [*GLOG_SWITCHES, *(f"no{name}" for name in GLOG_SWITCHES)]
    passed_over = set(FLAGS + GLOG) - USED[command] - {"minloglevel"}
    kept = [command]
    rest = iter(cli.gflags(words, [*FLAGS, *GLOG, *switches]))
    for word in rest:
        name, equals, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in passed_over.union(switches):
            kept.append(word)
        elif name in passed_over and not equals:
            next(rest, None)  # its value
    return kept


# ------------------------------------------------------------------------------------------------------ arguments


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """NAME=1,3,224,224"""
    name, _, numbers = text.rpartition("=")
    try:
        dims = tuple(int(number) for number in numbers.replace("x", ",").split(","))
    except ValueError:
        dims = ()
    if not name or not dims or min(dims) < 0 or max(dims) > cli.INT32_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape of a blob: write data=1,3,224,224")
    return name, dims


def numbers(text: str) -> list[float]:
    """104,117,123"""
    try:
        values = [float(number) for number in text.split(",")]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers with commas between them")
    return values


def mean(text: str) -> list[float] | str:
    """Numbers, or the name of a file."""
    return text if os.path.exists(text) or text.endswith((".binaryproto", ".npy")) else numbers(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="caffe.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def state(sub: argparse.ArgumentParser, phase: str | None) -> None:
        if phase is not None:
            sub.add_argument("--phase", choices=PHASES, default=phase, help=f"of the net's state (default: {phase})")
        sub.add_argument("--level", type=cli.int32, default=0, help="of the net's state (default: 0)")
        sub.add_argument("--stage", type=cli.stages, default=[], metavar="A,B", help="stages of the net's state")
        modules(sub)

    def modules(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--import", dest="modules", action="append", default=[], metavar="MODULE", help="that registers layer types"
        )

    def running(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--model", required=True, metavar="NET", help="net prototxt; looked for in prototxt/ too")
        sub.add_argument("--iterations", type=cli.positive_int, default=50, metavar="N", help="batches (default: 50)")
        sub.add_argument("--gpu", metavar="ID", help="compute on this GPU (the first one of several; default: CPU)")
        logging(sub)

    def logging(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--minloglevel", type=cli.non_negative_int, metavar="N", help="0 info, 1 warning, 2 error (default: 0)"
        )

    def net(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("net", metavar="NET", help="net prototxt; looked for in prototxt/ too")
        sub.add_argument(
            "--dialect", metavar="NAME", help=f"whose Caffe it is for: {', '.join(NAMES)}, or a .proto file"
        )
        sub.add_argument(
            "--shape",
            type=shape,
            action="append",
            default=[],
            metavar="BLOB=N,C,H,W",
            help="of a blob whose layer's data are not at hand, or other than the file's",
        )

    # Only listed here: train_net and upgrade_net have their own parsers.
    commands.add_parser("train", help="train a net", add_help=False)
    sub = command("test", test, "score a net: each output of each batch, and the means")
    running(sub)
    kinds = ".caffemodel, .h5 or .safetensors files, by layer name"
    sub.add_argument("--weights", required=True, metavar="A,B", help=kinds)
    state(sub, None)
    sub = command("time", time, "time every layer, forward and backward")
    running(sub)
    state(sub, "TRAIN")
    sub = command("device_query", device_query, "show the GPUs")
    sub.add_argument("--gpu", default="all", metavar="ID", help="numbers, or all (default: all)")
    logging(sub)

    sub = command(
        "doctor", doctor, "tell all that keeps a net from running; exit status 0 if it runs, 1 if it does not"
    )
    net(sub)
    sub.add_argument("weights", nargs="?", metavar="WEIGHTS", help=".caffemodel, .h5 or .safetensors")
    state(sub, "TEST")
    sub = command("convert", to_onnx, "write a net as ONNX, if ONNX Runtime computes the same in every layer")
    net(sub)
    sub.add_argument("weights", metavar="WEIGHTS", help=".caffemodel, .h5 or .safetensors")
    sub.add_argument("output", metavar="OUT.onnx")
    sub.add_argument(
        "--mean",
        type=mean,
        default=[],
        metavar="M",
        help="subtracted inside: a number, one a channel in the net's order (104,117,123), a .binaryproto or .npy",
    )
    sub.add_argument("--scale", type=float, default=1.0, metavar="S", help="multiplied with, after the mean")
    sub.add_argument(
        "--channel_order",
        choices=["bgr", "rgb"],
        default="bgr",
        help="of the images that the model takes; rgb is turned round inside (default: bgr, as the net's)",
    )
    sub.add_argument(
        "--tolerance",
        type=cli.positive_float,
        default=1e-4,
        help="largest difference relative to a blob's range (default: 1e-4)",
    )
    sub.add_argument("--inputs", metavar="FILE.npz", help="input blobs to compare on (default: random numbers 0..255)")
    sub.add_argument("--layers", action="store_true", help="print the difference of every layer")
    state(sub, "TEST")
    commands.add_parser("upgrade", help="bring a net or solver file to the present format", add_help=False)
    sub = command("summary", summary_of, "print layers, shapes, parameters, multiply-adds and receptive fields")
    net(sub)
    state(sub, "TEST")
    sub = command("diff", diff, "compare two nets, or two weights files; exit status 0 if they are the same, 1 if not")
    sub.add_argument("a", metavar="A")
    sub.add_argument("b", metavar="B")
    sub.add_argument("--dialect", metavar="NAME", help="whose Caffe the nets are for")
    sub.add_argument(
        "--tolerance", type=cli.non_negative_float, default=0.0, help="relative difference of arrays to pass over"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a command; its exit status."""
    words = as_argparse(sys.argv[1:] if argv is None else argv)
    for command, program in (("train", "train_net"), ("upgrade", "upgrade_net")):
        if words[:1] == [command]:
            return importlib.import_module(f"{__package__ or 'tools'}.{program}").main(words[1:])
    p = parser()
    args, rest = p.parse_known_args(words)
    if args.command == "doctor" and args.weights is None and len(rest) == 1 and not rest[0].startswith("-"):
        args.weights = rest.pop()  # behind an option, where argparse does not look for what may be left out
    if rest:
        p.error(f"unrecognized arguments: {' '.join(rest)}")
    if getattr(args, "minloglevel", None) is not None:
        log.set_level(args.minloglevel)
    import_modules(getattr(args, "modules", []))
    return args.run(args)


# -------------------------------------------------------------------------------------------------- Caffe's commands


def choose_device(text: str | None) -> torch.device:
    """The CPU, or the first GPU of --gpu."""
    if text is None:
        log.info("Use CPU.", "caffe.cpp:275")
        return torch.device("cpu")
    first, *others = gpu.chosen(text)
    for number in others:
        log.info(f"Not using GPU #{number} for single-GPU function", "caffe.cpp:256")
    log.info(f"Use GPU with device ID {first}", "caffe.cpp:263")
    return torch.device("cuda", first)


def test(args: argparse.Namespace) -> None:
    device = choose_device(args.gpu)
    graph = Graph(resources.net_path(args.model), TEST, args.level, args.stage)
    for path in filter(None, (part.strip() for part in args.weights.split(","))):
        graph.copy_from(path)
    brew.score(graph, args.iterations, device)


def time(args: argparse.Namespace) -> None:
    device = choose_device(args.gpu)
    graph = Graph(resources.net_path(args.model), PHASES[args.phase], args.level, args.stage)
    brew.measure(graph, args.iterations, device)


def device_query(args: argparse.Namespace) -> None:
    log.info(f"Querying GPUs {args.gpu}", "caffe.cpp:146")
    for number in gpu.chosen(args.gpu):
        for name, value in gpu.describe(number):
            log.info(f"{name + ':':<32}{value}", "common.cpp:178")


# --------------------------------------------------------------------------------------------------------- and ours


def doctor(args: argparse.Namespace) -> int:
    path = resources.net_path(args.net)
    report = examine(path, args.weights, PHASES[args.phase], args.level, args.stage, args.dialect, dict(args.shape))
    for finding in report.findings:
        print(finding)
    layers = "" if report.layers is None else f" {report.layers} layers in phase {args.phase},"
    counts = ", ".join(f"{n} {word}{'s' * (n != 1)}" for word in (ERROR, WARNING, NOTE) if (n := report.count(word)))
    verdict = "it runs" if report.runs else "it does not run"
    onnx = "" if not report.runs else ", and has a form in ONNX" if report.onnx else ", but has no form in ONNX"
    print(f"{path}:{layers} {counts or 'nothing to report'}: {verdict}{onnx}")
    return 0 if report.runs else 1


def load(args: argparse.Namespace) -> Graph:
    source, _ = as_inputs(read_net(resources.net_path(args.net), args.dialect), dict(args.shape))
    return Graph(source, PHASES[args.phase], args.level, args.stage)


def to_onnx(args: argparse.Namespace) -> None:
    graph = load(args)
    check_filled(graph, graph.load_weights(read_weights(args.weights), args.weights), args.weights)
    preprocessing = None
    if args.mean or args.scale != 1 or args.channel_order == "rgb":
        values = read_mean_of(args.mean) if isinstance(args.mean, str) else args.mean
        preprocessing = Preprocessing(values, args.scale, args.channel_order == "rgb")
    model = EveryLayer(graph, preprocessing)
    subtracted = os.path.basename(args.mean) if isinstance(args.mean, str) else args.mean
    metadata = {
        "net_file": os.path.basename(graph.path),
        "net_sha256": file_digest(graph.path),
        "weights_file": os.path.basename(args.weights),
        "weights_sha256": file_digest(args.weights),
        "preprocessing": f"mean {subtracted or 'none'}, scale {args.scale:g}, channels {args.channel_order}",
    }
    inputs = None if args.inputs is None else [read_inputs(args.inputs, model.input_names)]

    def tell(proof: Proof) -> None:
        if args.layers:
            for name, difference in proof.differences.items():
                print(f"{difference:9.2e}  {name}")
        name, worst = proof.worst
        print(f"{len(proof.differences)} blobs compared in ONNX Runtime and PyTorch")
        print(f"largest difference: {worst:.3g} of the blob's range, in {name}")

    proof = convert(model, args.output, args.tolerance, metadata, inputs, tell)
    print(f"{args.output}: {os.path.getsize(args.output):,} bytes, {proof.inputs} to {proof.outputs}")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Tells of a file that cannot be read in one line, whatever it is that is wrong with it."""
    try:
        yield
    except CaffeError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib have many kinds for a damaged file
        raise DataError(f"{what}: {str(error) or type(error).__name__}") from None


def read_mean_of(path: str) -> np.ndarray:
    """A mean image, or means, of a file."""
    with reading(f"--mean {path}"):
        if not path.endswith(".npy"):
            return read_mean(path)
        with open(path, "rb") as file:
            return np.asarray(np.load(file, allow_pickle=False), np.float32)


def read_inputs(path: str, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Arrays of an .npz file by the input blobs' names, as float32."""
    with reading(f"--inputs {path}"), open(path, "rb") as file:  # NumPy itself leaves a damaged one open
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"--inputs {path}: is a single array without a name: write it with numpy.savez")
        arrays = {name: archive[name].astype(np.float32) for name in names if name in archive}
        given = sorted(archive)
    for name in names:
        if name not in arrays:
            raise DataError(f"--inputs {path}: has no array {name!r}, only {', '.join(given) or 'none'}")
    return tuple(arrays[name] for name in names)


def summary_of(args: argparse.Namespace) -> None:
    graph = load(args)
    print("\n".join(format_table(summarize(graph))))


def diff(args: argparse.Namespace) -> int:
    kinds = [is_weights(path) for path in (args.a, args.b)]
    if kinds[0] != kinds[1]:
        raise DataError(f"{args.a} and {args.b}: one is a net, the other are weights: give two of a kind")
    if not kinds[0]:
        lines = diff_nets(args.a, args.b, args.dialect)
        print("\n".join(lines) or "the nets are the same")
        return 1 if lines else 0
    lines, arrays = diff_weights(args.a, args.b)
    changed = [array for array in arrays if array.relative > args.tolerance]
    for array in changed:
        lines.append(
            f'~ layer "{array.layer}" parameter {array.index} ({"x".join(map(str, array.shape))}): differs by up to '
            f"{array.absolute:.3g}, {array.relative:.3g} of its largest value"
        )
    print("\n".join(lines) or f"the weights are the same: {len(arrays)} arrays")
    return 1 if lines else 0


if __name__ == "__main__":
    cli.run(main)
