#!/usr/bin/env python3
"""Trains a network, as `caffe train` does.

    tools/train_net.py --solver solver_l8.prototxt               # a name in prototxt/, or any path
    tools/train_net.py --solver solver_l8.prototxt --snapshot snapshots/l8_iter_5000.solverstate    # go on
    tools/train_net.py --solver solver_l8.prototxt --weights w.caffemodel       # start from these weights
    tools/train_net.py --solver solver_l8.prototxt --train_data data/mine_train.txt --test_data data/mine_test.txt \\
                       --snapshot_prefix snapshots/mine                         # the same on other databases
    tools/train_net.py --solver solver_l8.prototxt --gpu 0,1                    # on two GPUs (all: on every one)
    torchrun --nproc_per_node=2 tools/train_net.py --solver solver_l8.prototxt  # two processes on the CPU

Prints Caffe's log lines to standard error (and to --log FILE), writes snapshots where the solver file says.
Ctrl-C stops after the iteration that is running, with a snapshot to go on from; a second one before
that iteration has ended stops at once.

On several devices each process (rank) trains with the solver file's whole batch_size, and gradients are averaged.
--snapshot auto goes on from the newest snapshot, if there is one: use it with torchrun --max-restarts.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import contextlib
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence

import torch

from pycaffe_compat import cli, cpu, gpu, log, resources
from pycaffe_compat.errors import CaffeError, DataError, SolverError, WeightsError
from pycaffe_compat.graph import TEST, TRAIN
from pycaffe_compat.plugins import import_modules
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_net, read_solver
from pycaffe_compat.solver import Action, SignalActions, Solver, distributed, find_net, handled
from pycaffe_compat.solver.snapshot import newest_state, resolve_prefix


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text = __doc__ or ""
    result = argparse.ArgumentParser(
        prog="train_net.py",
        description=text.split("\n\n")[0],
        epilog=text.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--solver", required=True, metavar="FILE", help="solver prototxt; looked for in prototxt/ too")
    start = result.add_mutually_exclusive_group()
    start.add_argument(
        "--snapshot",
        metavar="STATE",
        help="go on from this .solverstate or .solverstate.h5; auto: from the newest of the prefix, if there is one",
    )
    start.add_argument(
        "--weights", metavar="A,B", help="start from these .caffemodel, .h5 or .safetensors files, by layer name"
    )
    add(
        "--gpu",
        metavar="ID",
        help="train on this GPU (default: as the solver file says, if there is one), on several (0,1), or on all",
    )
    add(
        "--timeout",
        type=cli.positive_float,
        default=distributed.TIMEOUT,
        metavar="SECONDS",
        help="how long ranks that train together wait for one of them (default: %(default)g)",
    )
    add("--level", type=cli.int32, default=0, help="level of the training net's state (default: 0)")
    add("--stage", type=cli.stages, metavar="A,B", default=[], help="stages of the training net's state")
    effects = [action.value for action in Action]
    add(
        "--sigint_effect",
        choices=effects,
        default="stop",
        help="what Ctrl-C does (default: stop, with a snapshot)",
    )
    add("--sighup_effect", choices=effects, default="snapshot", help="what SIGHUP does (default: snapshot)")
    add("--precision", choices=cpu.PRECISIONS, default="float32", help="of the arithmetic (default: float32)")
    add("--max_iter", type=cli.positive_int, metavar="N", help="instead of the solver file's")
    add("--train_data", metavar="LIST", help="list of HDF5 databases to train on instead of the net file's")
    add("--test_data", metavar="LIST", help="the same for the test nets")
    add("--snapshot_prefix", metavar="PREFIX", help="instead of the solver file's")
    add(
        "--minloglevel",
        type=cli.non_negative_int,
        metavar="N",
        help="least severity of the lines: 0 info, 1 warning, 2 error (default: GLOG_minloglevel, or 0)",
    )
    add("--log", metavar="FILE", help="write the log lines here too (appended to with --snapshot)")
    add("--import", dest="modules", action="append", default=[], metavar="MODULE", help="that registers layer types")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train; 0 when it is done or was stopped on request."""
    args = parser().parse_args(argv)
    if args.minloglevel is not None:
        log.set_level(args.minloglevel)
    import_modules(args.modules)
    gpus = [] if args.gpu is None else gpu.chosen(args.gpu)
    if len(gpus) > 1 and distributed.local_rank() is None:
        program = ["-m", __spec__.name] if __spec__ and __spec__.name.startswith("pycaffe_compat.") else [__file__]
        return distributed.launch([sys.executable, *program, *(sys.argv[1:] if argv is None else argv)], len(gpus))
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.joined(args.timeout))
        if args.log and distributed.rank() == 0:
            stack.enter_context(log.to_file(args.log, append=bool(args.snapshot)))
        seed = secrets.randbits(31)
        if distributed.ranks() > 1:
            seed = distributed.shared(seed)
        with distributed.all_or_none():
            solver = prepare(args, seed, gpus)
        actions = SignalActions(Action(args.sigint_effect), Action(args.sighup_effect))
        solver.action = stack.enter_context(handled(actions))
        stack.enter_context(bar(solver))
        log.info("Starting Optimization", "caffe.cpp:239")
        solver.solve()
        log.info("Optimization Done.", "caffe.cpp:250")
    return 0


def prepare(args: argparse.Namespace, seed: int, gpus: Sequence[int]) -> Solver:
    """The solver that the command line asks for, at the iteration where it is to go on."""
    path = find_solver(args.solver)
    param = read_solver(path)
    for name in ("base_lr", "lr_policy", "max_iter"):
        if not param.HasField(name) and getattr(args, name, None) is None:
            raise SolverError(f"{path}: {name} is not set: training needs base_lr, lr_policy and max_iter")
    if param.random_seed < 0:  # drawn and printed, so that the run can be repeated
        param.random_seed = seed
    if args.snapshot_prefix:
        param.snapshot_prefix = args.snapshot_prefix
    # One of the nets that came with the library: its snapshots belong where the user is, not beside it.
    param.snapshot_prefix = resolve_prefix(
        param.snapshot_prefix, path if path == args.solver else os.path.basename(path)
    )
    state = newest_state(param.snapshot_prefix) if args.snapshot == "auto" else args.snapshot
    if args.snapshot == "auto" and state is None:
        log.info(f"No snapshot {param.snapshot_prefix}_iter_N yet: starting at iteration 0", "caffe.cpp:235")
    if state and distributed.rank() == 0 and not os.path.isfile(state):
        raise WeightsError(f"{state}: no such file: --snapshot takes a .solverstate or .solverstate.h5")
    if state or args.weights:  # they go before the file's own, which need not be there then
        param.ClearField("weights")
    if args.weights:
        param.weights.append(args.weights)
    for weights in (part.strip() for entry in param.weights for part in entry.split(",")):
        if weights and not os.path.isfile(weights):  # before hours are spent on building
            raise WeightsError(f"{weights}: no such file")
    device = choose_device(param, gpus)
    if args.precision == "bfloat16" and device.type == "cpu" and cpu.fast_bfloat16() is False:
        log.warning("--precision bfloat16 is expected to be slower than float32 on this CPU", "caffe.cpp:197")
    solver = build(path, param, args, device)
    if state:
        log.info(f"Resuming from {state}", "caffe.cpp:235")
        solver.restore(state)
    return solver


def find_solver(name: str) -> str:
    """The solver file: as given, or else among the library's."""
    if os.path.isfile(name):
        return name
    found = resources.find("prototxt", name)
    if found is None or not os.path.isfile(found):
        raise SolverError(f"{name}: no such file, and prototxt/ has none of that name")
    return found


def choose_device(param: caffe_pb2.SolverParameter, gpus: Sequence[int]) -> torch.device:
    """--gpu is an order; the solver file's solver_mode (GPU, when it says nothing) is a wish."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = distributed.local_rank()
    if local is not None and not gpus and param.solver_mode == param.GPU:
        gpus = range(available)  # a launcher's ranks take one each
    if gpus:
        if (local or 0) >= len(gpus):
            raise SolverError(f"there are more ranks on this machine than GPUs ({len(gpus)}): start fewer of them")
        param.solver_mode, param.device_id = param.GPU, gpus[local or 0]
    if param.solver_mode == param.GPU and param.device_id < available:
        log.info(f"Using GPU {param.device_id}", "caffe.cpp:218")
        if local is not None:  # NCCL's own work is to be there too
            torch.cuda.set_device(param.device_id)
        return torch.device("cuda", param.device_id)
    wanted = param.HasField("solver_mode") and param.solver_mode == param.GPU
    log.info(
        "Use CPU." + (" (The solver file asks for a GPU; there is none.)" if wanted else ""), "caffe.cpp:197"
    )
    return torch.device("cpu")


def build(
    path: str, param: caffe_pb2.SolverParameter, args: argparse.Namespace, device: torch.device
) -> Solver:
    """The solver; where a database is missing, the error says how to make it."""
    given = {phase: path for phase, path in ((TRAIN, args.train_data), (TEST, args.test_data)) if path}
    try:
        return Solver(
            param,
            path=path,
            level=args.level,
            stages=args.stage,
            precision=args.precision,
            device=device,
            max_iter=args.max_iter,
            sources=given,
        )
    except DataError as error:
        hint = database_hint(path, param)
        if not hint or not all(map(os.path.exists, given.values())):
            raise
        raise DataError(f"{error}; {hint}") from error


def database_hint(solver_path: str, param: caffe_pb2.SolverParameter) -> str:
    """How to make the databases that the solver's nets miss, "" if they miss none.

    The command is what a comment line ``# database: COMMAND`` above the layer gives in the net's file.
    """
    commands: list[str] = []
    for name in (
        *(getattr(param, field) for field in ("net", "train_net") if param.HasField(field)),
        *param.test_net,
    ):
        path = find_net(name, solver_path)
        try:
            source = read_net(path)
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [re.match(r"\s*#\s*database:\s*(.*\S)", line) for line in file]
        except (CaffeError, OSError):  # what is wrong with the net has been said already
            continue
        for layer, line in zip(source.param.layer, source.lines, strict=True):
            if layer.type == "HDF5Data" and not os.path.exists(layer.hdf5_data_param.source):
                above = [match[1] for match in lines[:line] if match]
                command = (
                    above[-1]
                    if above
                    else f"tools/make_patches.py (it is to write {layer.hdf5_data_param.source})"
                )
                if command not in commands:
                    commands.append(command)
    return f"make it with: {'  and  '.join(commands)}" if commands else ""


@contextlib.contextmanager
def bar(solver: Solver) -> Iterator[None]:
    """A progress bar beneath the log lines, on a terminal only."""
    if not sys.stderr.isatty() or distributed.rank():
        yield
        return
    with cli.progress(solver.param.max_iter, unit="iter", initial=solver.iter) as progress:
        solver.add_callback(lambda: None, lambda: progress.update(1))
        with log.console(progress.write):
            yield


if __name__ == "__main__":
    cli.run(main)
