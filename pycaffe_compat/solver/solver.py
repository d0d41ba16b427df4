"""The training loop: Caffe's solver, in Caffe's order.

One iteration: clear the gradients -> test if due -> iter_size times (forward, backward) -> display -> the
update (``update_rules``) -> count -> snapshot if due. Display and test thus see the weights before the update
of the iteration they name, and the snapshot of iteration N holds the weights after N updates.
"""

import base64
import functools
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from google.protobuf.message import Message
from torch import Tensor

from .. import debug, log, resources
from ..cpu import PRECISIONS
from ..detection_scores import VERSIONS, average_precisions
from ..errors import DataError, NetError, SolverError, WeightsError
from ..files import atomic_write
from ..graph import Graph, as_source, share_parameters, to_device
from ..naming import one_line, shape_text
from ..proto import caffe_pb2
from ..proto.text import NetSource, format_message, read_net, read_solver
from ..weights import write_weights
from . import distributed, snapshot
from .lr_policies import LearningRate
from .signals import Action
from .update_rules import make_rule

SolverLike = str | os.PathLike[str] | Message

Method = TypeVar("Method", bound=Callable[..., Any])


def _says_where(method: Method) -> Method:
    """Training together ends when a rank is lost: the error then says at which iteration, and what is kept."""

    @functools.wraps(method)
    def call(self: "Solver", *args: Any, **named: Any) -> Any:
        try:
            return method(self, *args, **named)
        except distributed.RankLost as error:
            where = f"{self.where}: iteration {self.iter}"
            raise distributed.RankLost(f"{where}: {error} ({self._kept()})") from error

    return call  # type: ignore[return-value]


class Solver:
    """Trains a net as a solver file says.

    Args:
        param: path of a solver prototxt, or a SolverParameter (it is copied).
        path: the file that a given SolverParameter was read from: messages name it, nets are found beside it.
        level, stages: put into the file's ``train_state``; the test nets do not see them, as in Caffe.
        precision: "float32", or "bfloat16" (autocast: weights, history and losses stay float32).
        device: where to train, e.g. "cpu" or "cuda:0".
        max_iter: instead of the file's.
        sources: lists of databases by phase, {TRAIN: path, TEST: path}: the nets' HDF5Data layers read these instead
            of the ones that the net files name.

    Raises:
        SolverError: settings that cannot work; it names the file.
        NetError, PrototxtError, DataError, WeightsError: what the file names cannot be used.

    ``graph`` is the training net and ``test_graphs`` are the others, which share its parameters; ``iter`` counts
    the updates that have been made. After a step the gradients of the parameters hold the update itself, as
    Caffe's diffs do. (``pycaffe`` puts pycaffe's face over this: ``net``, ``test_nets``, blobs.)

    Where torch.distributed is initialised (see ``distributed``), the solvers of all processes train together: solve,
    step, snapshot and test_all must then be called by all. Rank 0's state rules: weights, history, iteration, data
    order. Its loss is the one that is shown.
    """

    type: ClassVar[str | None] = None
    """The update rule of a subclass; None takes the file's."""
    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    """In which order the parameters lie in memory on the CPU."""

    def __init__(
        self,
        param: SolverLike,
        *,
        path: str = "",
        level: int | None = None,
        stages: Sequence[str] = (),
        precision: str = "float32",
        device: str | torch.device = "cpu",
        max_iter: int | None = None,
        sources: Mapping[int, str] | None = None,
    ) -> None:
        self.path = path if isinstance(param, Message) else os.fspath(param)
        self.where = self.path or "solver"
        self.param = self._settings(param, level, stages, max_iter)
        if precision not in PRECISIONS:
            raise SolverError(
                f'{self.where}: precision is "{precision}"; it is one of {", ".join(PRECISIONS)}'
            )
        self.precision = precision
        self.device = torch.device(device)
        self._sources = dict(sources or {})
        self._rate = LearningRate(self.param, self.where)
        log.info(
            "Initializing solver from parameters: \n" + format_message(self.param).rstrip(), "solver.cpp:45"
        )
        if self.param.random_seed >= 0:
            torch.manual_seed(self.param.random_seed)

        self.graph = self._make_train_net()
        self.test_graphs = self._make_test_nets()
        self._rule = make_rule(self.param, self.graph.learnable, self.where)
        log.info("Solver scaffolding done.", "solver.cpp:57")

        self.iter = 0
        self.last_lr = 0.0
        """the learning rate of the last update"""
        self.callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.action: Callable[[], Action] = lambda: Action.NONE
        """asked between iterations and between test batches for what to do (see ``signals``)"""
        self._stopping = False
        self._losses: list[float] = []
        self._smoothed = 0.0
        self._timer = 0.0
        self._timed_iter = 0
        self._last_snapshot = ""
        self._probed = False
        self._test_cursors: list[dict[str, Any]] | None = None
        self._resumed_random: list[dict[str, Any]] = []
        self._joined = True
        if distributed.ranks() > 1:
            self._share_training()

    # ----------------------------------------------------------------------------------------------- settings

    def _settings(self, given: SolverLike, level: int | None, stages: Sequence[str], max_iter: int | None) -> Any:
        read = given if isinstance(given, Message) else read_solver(given)
        param: Any = type(read)()
        param.CopyFrom(read)
        if max_iter is not None:
            param.max_iter = max_iter
        if self.type is not None:
            param.type = self.type
        if level is not None:
            param.train_state.level = level
        if stages:
            param.train_state.stage.extend(stages)
        for name in ("max_iter", "display", "snapshot", "test_interval"):
            if getattr(param, name) < 0:
                raise SolverError(f"{self.where}: {name} is {getattr(param, name)}; it must not be negative")
        if param.average_loss < 1:
            raise SolverError(f"{self.where}: average_loss is {param.average_loss}; it must be at least 1")
        for name, words in (("eval_type", ("classification", "detection")), ("ap_version", VERSIONS)):
            word = getattr(param, name, words[0])  # SSD's: other dialects have neither
            if word not in words:
                raise SolverError(f'{self.where}: {name} is "{word}"; it is one of {", ".join(words)}')
        return param

    # ----------------------------------------------------------------------------------------------- the nets

    def _make_train_net(self) -> Graph:
        param = self.param
        given = [
            name for name in ("train_net_param", "train_net", "net_param", "net") if param.HasField(name)
        ]
        if len(given) != 1:
            fault = f"{' and '.join(given)} are all set: keep one" if given else "no net is set: set `net`"
            raise SolverError(f"{self.where}: {fault}; it says what to train")
        source = self._source(getattr(param, given[0]), f"training net from {_described(given[0])}")
        net = self._build(source, param.train_state, caffe_pb2.TRAIN)
        self._load_listed(net)
        return net

    def _make_test_nets(self) -> list[Graph]:
        param = self.param
        generic = [name for name in ("net_param", "net") if param.HasField(name)]
        wanted = [("test_net_param", net) for net in param.test_net_param]
        wanted += [("test_net", path) for path in param.test_net]
        spare = len(param.test_iter) - len(wanted)
        if spare < 0 or (spare and not generic):
            raise SolverError(
                f"{self.where}: {len(param.test_iter)} test_iter for {len(wanted)} test nets: give one each"
                + (", and more for further test passes of the net itself" if generic else "")
            )
        wanted += [(name, getattr(param, name)) for name in generic[:1] * spare]
        if param.test_state and len(param.test_state) != len(wanted):
            raise SolverError(
                f"{self.where}: {len(param.test_state)} test_state for {len(wanted)} test nets: give one each"
            )
        if wanted and param.test_interval <= 0:
            raise SolverError(
                f"{self.where}: there are test nets but no test_interval: set it (in iterations)"
            )
        if caffe_pb2.TEST in self._sources and not wanted:
            raise SolverError(f"{self.where}: there are no test nets to read {self._sources[caffe_pb2.TEST]}")
        nets = []
        for i, (field, net) in enumerate(wanted):
            source = self._source(net, f"test net (#{i}) specified by {_described(field)}")
            state = param.test_state[i] if param.test_state else caffe_pb2.NetState()
            graph = self._build(source, state, caffe_pb2.TEST)
            self._load_listed(graph)
            share_parameters(self.graph, graph)
            nets.append(graph)
        return nets

    def _source(self, net: Any, what: str) -> NetSource:
        if not isinstance(net, str):
            log.info(f"Creating {what}", "solver.cpp:102")
            return as_source(net)
        log.info(f"Creating {what}: {net}", "solver.cpp:102")
        return read_net(find_net(net, self.path))

    def _build(self, source: NetSource, state: Any, phase: int) -> Graph:
        # Merged in Caffe's order: the phase by the net's use, then the net's own state, then the solver's.
        merged = type(source.param.state)(phase=phase)
        for part in (source.param.state, state):
            merged.MergeFromString(part.SerializeToString())  # the two may be of different dialects
        source.param.state.CopyFrom(merged)
        if merged.phase in self._sources:
            source = _reading_from(source, self._sources[merged.phase], merged.phase)
        graph = Graph(source)
        to_device(graph, self.device)
        if self.device.type == "cpu" and not any(node.views for node in graph.nodes):
            # PyTorch's convolutions are 1.3 to 2 times faster so; shapes and snapshots do not change. (A
            # parameter shared under another shape is a view, which this order of memory does not allow.)
            graph.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # missing in the stubs
        for node in graph.nodes:
            tops = ", ".join(f"{top} {shape_text(graph.shapes[top])}" for top in node.tops)
            log.info(f"Setting up {node.name} ({node.type}): {tops}", "net.cpp:124")
        count = sum(entry.parameter.numel() for entry in graph.learnable)
        log.info(f"Network initialization done: {count} parameters.", "net.cpp:257")
        return graph

    def _load_listed(self, net: Graph) -> None:
        for entry in self.param.weights:
            for path in filter(None, (part.strip() for part in entry.split(","))):
                log.info(f"Finetuning from {path}", "solver.cpp:72")
                net.copy_from(path)

    # ---------------------------------------------------------------------------------- training with other ranks

    def _share_training(self) -> None:
        """Read a share of the rows, draw random numbers of our own, use the mean of all ranks' gradients."""
        distributed.share_data(self.graph)
        if distributed.rank():
            seed = self.param.random_seed if self.param.random_seed >= 0 else torch.initial_seed()
            torch.manual_seed((seed + distributed.rank()) % 2**63)
        self.callbacks.append((lambda: None, lambda: distributed.average(self._rule.diffs())))
        self._joined = False

    def join(self) -> None:
        """Together, once when the training begins or has been resumed: all take over rank 0's state."""
        if self._joined:
            return
        mine = (self.iter, self._rate.current_step, self._last_snapshot, self._resumed_random)
        self.iter, self._rate.current_step, self._last_snapshot, random_states = distributed.shared(mine)
        distributed.from_first([entry.parameter.data for entry in self.graph.learnable] + self._rule.history)
        distributed.align_data(self.graph)
        if 0 < distributed.rank() < len(random_states):
            _load_random_state(random_states[distributed.rank()])
        self._joined = True

    def _requested(self) -> Action:
        """What the solver is asked to do, on this rank or another."""
        return self.action() if distributed.ranks() == 1 else distributed.agreed(self.action())

    # ----------------------------------------------------------------------------------------------- training

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Call the first before each iteration's forward pass, the second before its update."""
        self.callbacks.append((on_start, on_gradients_ready))

    @_says_where
    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train up to max_iter, with snapshots, and a test at the end if one is due.

        A request to stop (``action``) ends it early, with a snapshot unless snapshot_after_train is false.

        Raises:
            SolverError: the loss is no longer a finite number; the snapshots made before are kept.
        """
        param = self.param
        log.info(f"Solving {self.graph.name}", "solver.cpp:289")
        log.info(f"Learning Rate Policy: {param.lr_policy}", "solver.cpp:290")
        if param.snapshot or param.snapshot_after_train:
            self._probe()
        self._stopping = False
        if resume_file is not None:
            log.info(f"Restoring previous solver status from {os.fspath(resume_file)}", "solver.cpp:296")
            self.restore(resume_file)
        self.join()
        start = self.iter
        self._step(max(0, param.max_iter - self.iter))
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot):
            self.snapshot()
        if self._stopping:
            log.info("Optimization stopped early.", "solver.cpp:317")
            return
        # Caffe looks at the loss after the last update too; this consumes a batch, after the snapshot.
        if param.display and self.iter % param.display == 0:
            with torch.no_grad(), self._autocast():
                loss = float(self._forward(self.graph)[1])
            self._smooth(loss, start)
            log.info(f"Iteration {self.iter}, loss = {log.number(self._smoothed)}", "solver.cpp:327")
        if param.test_interval and self.iter % param.test_interval == 0:
            self.test_all()
        log.info("Optimization Done.", "solver.cpp:332")

    @_says_where
    def step(self, n: int) -> None:
        """Make ``n`` iterations, with tests, display and snapshots as they fall due; none extra at the end.

        Raises:
            SolverError: the loss is no longer a finite number.
        """
        if self.param.snapshot:
            self._probe()
        self._stopping = False
        self.join()
        self._step(n)

    def _step(self, n: int) -> None:
        param = self.param
        start, stop = self.iter, self.iter + n
        self._losses, self._smoothed = [], 0.0
        self._timer, self._timed_iter = time.perf_counter(), self.iter
        while self.iter < stop:
            self._clear_gradients()
            if (
                param.test_interval
                and self.iter % param.test_interval == 0
                and (self.iter > 0 or param.test_initialization)
            ):
                self.test_all()
                if self._stopping:
                    return
            for on_start, _ in self.callbacks:
                on_start()
            display = bool(param.display) and self.iter % param.display == 0
            loss, outputs = self._gradients(display)
            self._smooth(loss, start)
            if display:
                self._display(outputs)
            for _, on_gradients_ready in self.callbacks:
                on_gradients_ready()
            self.apply_update()
            del outputs
            request = self._requested()
            if (param.snapshot and self.iter % param.snapshot == 0) or request is Action.SNAPSHOT:
                self.snapshot()
            if request is Action.STOP:
                self._stopping = True
                return

    def _gradients(self, display: bool) -> tuple[float, Mapping[str, Tensor]]:
        """Forward and backward, iter_size times: the mean loss; the last pass's blobs if shown."""
        debugging = display and self.param.debug_info
        total = 0.0
        blobs: Mapping[str, Tensor] = {}
        for _ in range(self.param.iter_size):
            with debug.recorded(self.graph) if debugging else nullcontext() as recorder:
                with self._autocast():
                    blobs, loss = self._forward(self.graph)
                value = loss.item()
                if not math.isfinite(value):
                    raise self._diverged(f"the loss is {value}")
                self._backward(loss)
                if recorder is not None:
                    recorder.log_backward()
            total += value
        return total / self.param.iter_size, blobs if display else {}

    def _clear_gradients(self) -> None:
        self._rule.clear()

    def _forward(self, graph: Graph) -> tuple[Mapping[str, Tensor], Tensor]:
        """One forward pass of a net: its blobs and its loss."""
        blobs = graph.run()
        return blobs, graph.loss(blobs)

    def _backward(self, loss: Tensor) -> None:
        """The gradients of the training net's last forward pass, added to the parameters'."""
        if loss.requires_grad:
            loss.backward()

    def apply_update(self) -> None:
        """Turn the gradients into the update of this iteration, make it and count it."""
        self.last_lr = self._rate(self.iter)
        if self.param.display and self.iter % self.param.display == 0:
            log.info(f"Iteration {self.iter}, lr = {log.number(self.last_lr)}", "sgd_solver.cpp:112")
        self._rule.apply(self.last_lr, self.iter)
        self.iter += 1

    def _autocast(self) -> Any:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _diverged(self, what: str) -> SolverError:
        return SolverError(
            f"{self.where}: iteration {self.iter}: {what}: the training has diverged; "
            f"lower base_lr or set clip_gradients ({self._kept()})"
        )

    def _kept(self) -> str:
        return f"the last snapshot is {self._last_snapshot}" if self._last_snapshot else "there is no snapshot yet"

    def _smooth(self, loss: float, start: int) -> None:
        """A sliding mean over average_loss iterations, begun anew by each call of step()."""
        size = self.param.average_loss
        if len(self._losses) < size:
            self._losses.append(loss)
            count = len(self._losses)
            self._smoothed = (self._smoothed * (count - 1) + loss) / count
        else:
            index = (self.iter - start) % size
            self._smoothed += (loss - self._losses[index]) / size
            self._losses[index] = loss

    def _display(self, blobs: Mapping[str, Tensor]) -> None:
        now = time.perf_counter()
        lapse = now - self._timer
        speed = (self.iter - self._timed_iter) / lapse if lapse else 0.0
        log.info(
            f"Iteration {self.iter} ({log.number(speed)} iter/s, {log.number(lapse)}s/{self.param.display} "
            f"iters), loss = {log.number(self._smoothed)}",
            "solver.cpp:239",
        )
        self._timer, self._timed_iter = now, self.iter
        self._log_outputs(
            "Train", self.graph, {name: _values(blobs[name]) for name in self.graph.outputs}, "solver.cpp:258"
        )

    def _log_outputs(self, which: str, net: Graph, outputs: Mapping[str, list[float]], tag: str) -> None:
        weights = net.loss_weights
        count = 0
        for name, values in outputs.items():
            weight = weights.get(name, 0)
            for value in values:
                loss = f" (* {log.number(weight)} = {log.number(weight * value)} loss)" if weight else ""
                log.info(f"    {which} net output #{count}: {name} = {log.number(value)}{loss}", tag)
                count += 1

    # ------------------------------------------------------------------------------------------------ testing

    def test_all(self) -> list[dict[str, list[float]]]:
        """Run each test net for its test_iter batches and log the means of its outputs; also returns them."""
        # A snapshot taken within a test resumes before it, so the sources have to be where they were then.
        self._test_cursors = [_cursors(graph) for graph in self.test_graphs]
        try:
            results = []
            for i in range(len(self.test_graphs)):
                if not self._stopping:
                    results.append(self.test(i))
            return results
        finally:
            if not self._stopping:
                self._test_cursors = None

    def test(self, index: int = 0) -> dict[str, list[float]]:
        """Run one test net; {output: its values, mean over the batches}, or {} if a request to stop came.

        Rank 0 alone tests; the others wait and get {}.
        """
        graph, passes = self.test_graphs[index], self.param.test_iter[index]
        log.info(f"Iteration {self.iter}, Testing net (#{index})", "solver.cpp:347")
        sums: dict[str, Tensor] = {}  # in float32, as in Caffe, so that the last digit printed is the same
        tables: dict[str, list[Any]] = {}  # of detections, which are not averaged but ranked
        total = torch.zeros(())
        with (
            torch.no_grad(),
            debug.recorded(graph) if self.param.debug_info else nullcontext(),
            self._autocast(),
        ):
            for _ in range(passes):
                self._obey_while_testing()
                if self._stopping:
                    log.info("Test interrupted.", "solver.cpp:396")
                    return {}
                if distributed.rank():
                    continue
                blobs, loss = self._forward(graph)
                if self.param.test_compute_loss:
                    total += loss.detach().cpu()
                for name in graph.outputs:
                    if self._detection:
                        tables.setdefault(name, []).append(self._scored(name, blobs[name]))
                        continue
                    values = blobs[name].detach().float().flatten().cpu()
                    if name in sums and len(sums[name]) != len(values):
                        raise SolverError(
                            f'{self.where}: output "{name}" of test net #{index} has {len(values)} values, '
                            f"{len(sums[name])} in the batch before: there is no mean of these"
                        )
                    sums[name] = sums[name] + values if name in sums else values.clone()
        if self.param.test_compute_loss and passes:
            log.info(f"Test loss: {log.number(float(total / passes))}", "solver.cpp:401")
        means: dict[str, list[float]] = {name: (values / passes).tolist() for name, values in sums.items()}
        means |= {name: [self._mean_precision(np.concatenate(rows))] for name, rows in tables.items()}
        self._log_outputs("Test", graph, means, "solver.cpp:414")
        return means

    @property
    def _detection(self) -> bool:
        """Whether tests score detections (SSD's ``eval_type``)."""
        return getattr(self.param, "eval_type", "classification") == "detection"

    def _scored(self, name: str, blob: torch.Tensor) -> Any:
        """An output of DetectionEvaluate as rows of 5."""
        if not blob.ndim or blob.shape[-1] != 5:
            raise SolverError(
                f'{self.where}: eval_type "detection" is for test nets whose outputs are DetectionEvaluate\'s tops: '
                f'"{name}" is none, end it in a Silence layer'
            )
        return blob.detach().cpu().double().numpy().reshape(-1, 5)

    def _mean_precision(self, rows: Any) -> float:
        """Mean over the classes of the average precision, 0 of classes without objects or detections."""
        precisions = average_precisions(rows, self.param.ap_version)
        if self.param.show_per_class_result:
            for label, value in precisions.items():
                log.info(f"class{label}: {log.number(value)}", "solver.cpp:543")
        return sum(precisions.values()) / max(1, len(precisions))

    def _obey_while_testing(self) -> None:
        while (request := self._requested()) is not Action.NONE:
            if request is Action.SNAPSHOT:
                self.snapshot()
            else:
                self._stopping = True

    # ---------------------------------------------------------------------------------------------- snapshots

    @property
    def snapshot_prefix(self) -> str:
        """What the names of snapshots begin with."""
        return snapshot.resolve_prefix(self.param.snapshot_prefix, self.path)

    def _probe(self) -> None:
        if not self._probed and distributed.rank() == 0:
            self.graph.check_names()
            snapshot.probe_prefix(self.snapshot_prefix)
            self._probed = True

    def snapshot(self) -> str:
        """Write the weights and the state of this iteration; the path of the state.

        Each file appears whole or not at all, the weights first: whatever stops the program, the newest state
        on disk has its weights beside it. Of several ranks the first writes; it is done when this returns.

        Raises:
            SolverError: the parameters are no longer finite: a bad snapshot shall not follow a good one.
            OSError: the files cannot be written; those from before are as they were.
        """
        random_states = [_random_state(self.device)]
        if distributed.ranks() == 1:
            self._last_snapshot = self._write_snapshot(random_states)
        else:
            random_states = distributed.gathered(random_states[0])
            path = self._write_snapshot(random_states) if distributed.rank() == 0 else ""
            self._last_snapshot = distributed.shared(path)
        return self._last_snapshot

    def _write_snapshot(self, random_states: list[dict[str, Any]]) -> str:
        learnable = self.graph.learnable
        if not all(bool(entry.parameter.isfinite().all()) for entry in learnable):
            raise self._diverged("the parameters are no longer finite")
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5
        kind = "HDF5" if hdf5 else "binary proto"
        prefix = self.snapshot_prefix
        weights_path = snapshot.snapshot_path(prefix, self.iter, "caffemodel", hdf5)
        state_path = snapshot.snapshot_path(prefix, self.iter, "solverstate", hdf5)
        state = snapshot.State(
            self.iter,
            weights_path,
            [_array(tensor) for tensor in self._rule.history],
            self._rate.current_step,
            self._resume_state(random_states),
        )
        directory = os.path.dirname(prefix)
        if directory:
            os.makedirs(directory, exist_ok=True)
        # Both are written before either is put in place: a full disk then leaves an older pair of this name
        # whole.
        with atomic_write(state_path) as temporary:
            log.info(
                f"Snapshotting to {kind} file {weights_path}", "solver.cpp:474" if hdf5 else "solver.cpp:464"
            )
            snapshot.write_state(os.fspath(temporary), state, state_path)
            write_weights(weights_path, self.graph.param, self.graph.weights(), self._diffs())
            log.info(
                f"Snapshotting solver state to {kind} file {state_path}",
                "sgd_solver.cpp:296" if hdf5 else "sgd_solver.cpp:284",
            )
        return state_path

    def _diffs(self) -> dict[str, list[np.ndarray]] | None:
        if not self.param.snapshot_diff:
            return None
        return {name: [_diff(blob) for blob in blobs] for name, blobs in self.graph.params.items()}

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Continue from a .solverstate (or .solverstate.h5) and the weights that it names.

        From one of ours the training goes on bit for bit as if it had not been interrupted. One of Caffe's
        own does not say where the data stood: they start over, as in Caffe.

        Of several ranks the first reads the files; the others take over from it when they go on. There may be another
        number of them than before: the rows go on where they stood, and new ranks begin with random numbers of
        their own.

        Raises:
            WeightsError: the files cannot be read, or were written with another net or solver type.
        """
        path = os.fspath(path)
        self._joined = distributed.ranks() == 1
        if distributed.rank():
            return
        state = snapshot.read_state(path)
        rule = self._rule
        snapshot.fit_history(
            path, rule.name, rule.slots, state.history, [tuple(e.parameter.shape) for e in self.graph.learnable]
        )
        weights = state.learned_net and snapshot.locate_weights(state.learned_net, path)
        self._check_resume(path, state.resume)
        if weights:
            self.graph.copy_from(weights)
        log.info(f"{rule.name}Solver: restoring history", "sgd_solver.cpp:336")
        with torch.no_grad():
            for tensor, array in zip(rule.history, state.history, strict=True):
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(tensor.shape))
        self.iter = state.iteration
        self._rate.current_step = state.current_step
        self._last_snapshot = path
        self._test_cursors = None
        self._resumed_random = []
        if state.resume:
            self._load_resume_state(state.resume)

    def _resume_state(self, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        tests = self._test_cursors or [_cursors(graph) for graph in self.test_graphs]
        return {
            "version": 1,
            "train": _cursors(self.graph),
            "test": tests,
            "random": random_states[0],
            **({"other_ranks": random_states[1:]} if random_states[1:] else {}),
        }

    def _check_resume(self, path: str, resume: dict[str, Any]) -> None:
        if resume and resume.get("version") != 1:
            raise WeightsError(
                f"{path}: was written by a newer version of this library "
                f"(resume data {resume.get('version')!r}): update it"
            )
        try:
            for cursors in (resume.get("train", {}), *resume.get("test", ())):
                if not all(isinstance(cursor, Mapping) for cursor in cursors.values()):
                    raise TypeError("a data position is not made of numbers by name")
            for state in (resume.get("random", {}), *resume.get("other_ranks", ())):
                _parse_random_state(state)
        except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, OverflowError) as error:
            raise WeightsError(f"{path}: is damaged: what resumes the training: {one_line(error)}") from error

    def _load_resume_state(self, resume: dict[str, Any]) -> None:
        _load_cursors(self.graph, resume.get("train", {}))
        for net, cursors in zip(self.test_graphs, resume.get("test", ()), strict=False):
            _load_cursors(net, cursors)
        _load_random_state(resume.get("random", {}))
        self._resumed_random = [{}, *resume.get("other_ranks", ())]


def find_net(name: str, solver_path: str = "") -> str:
    """The file that a solver's ``net:`` means: as given (in Caffe: from the working directory), else beside
    the solver file, else among the nets that come with this library; as given if it is nowhere."""
    beside = os.path.join(os.path.dirname(solver_path), name)
    for path in (name, beside):
        if os.path.isfile(path):
            return path
    return resources.find("prototxt", name) or name


def _reading_from(source: NetSource, path: str, phase: int) -> NetSource:
    """The net with its HDF5Data layers reading another list of databases."""
    param = type(source.param)()
    param.CopyFrom(source.param)
    layers = [layer for layer in param.layer if layer.type == "HDF5Data"]
    if not layers:
        name = caffe_pb2.Phase.Name(phase)
        raise NetError(f"{source.path or 'net'}: has no HDF5Data layer to read {path} in phase {name}")
    for layer in layers:
        layer.hdf5_data_param.source = path
    return NetSource(param, source.path, source.lines)


def _described(field: str) -> str:
    return f"{field}" if field.endswith("_param") else "net file" if field == "net" else f"{field} file"


def _values(blob: Tensor) -> list[float]:
    values: list[float] = blob.detach().float().flatten().tolist()
    return values


def _array(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.detach().float().cpu().numpy(), order="C")


def _diff(blob: Tensor) -> np.ndarray:
    owner = blob if blob._base is None else blob._base  # of a parameter that is shared under another shape
    return _array(torch.zeros_like(blob) if owner.grad is None else owner.grad.view(blob.shape))


# ------------------------------------------------------------------------------- what a resumed run needs too


def _cursors(net: Graph) -> dict[str, Any]:
    return {name: layer.source.state_dict() for name, layer in net.data_layers.items()}


def _load_cursors(net: Graph, cursors: Mapping[str, Any]) -> None:
    for name, layer in net.data_layers.items():
        if name not in cursors:
            continue
        try:
            layer.source.load_state_dict(cursors[name])
        except DataError as error:  # another database than before: a thing to do on purpose, and to know of
            log.warning(f"{error}; it is read from its beginning", "solver.cpp:482")


def _pack(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _random_state(device: torch.device) -> dict[str, Any]:
    # All that a layer may draw from: PyTorch's own, and for Python layers the other two.
    kind, keys, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": _pack(torch.get_rng_state().numpy().tobytes()),
        "numpy": [kind, _pack(np.asarray(keys, np.uint32).tobytes()), *rest],
        "python": [version, _pack(np.array(internal, np.uint32).tobytes()), gauss],
    }
    if device.type == "cuda":
        state["cuda"] = _pack(torch.cuda.get_rng_state(device).numpy().tobytes())
    return state


def _parse_random_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the generators take, tried on others; errors of many kinds where they would not take it."""

    def unpack(text: str, kind: Any) -> np.ndarray:
        return np.frombuffer(base64.b64decode(text), kind).copy()

    if not isinstance(state, Mapping):
        raise TypeError("the random numbers have no names")
    found: dict[str, Any] = {}
    for name in {"torch", "cuda"} & set(state):
        found[name] = torch.from_numpy(unpack(state[name], np.uint8))
    if "torch" in found:
        torch.Generator().set_state(found["torch"])
    if "numpy" in state:
        kind, keys, position, *rest = state["numpy"]
        if not 0 <= position <= 624:  # NumPy believes it
            raise ValueError(f"NumPy's generator stands at {position} of 624 numbers")
        found["numpy"] = (kind, unpack(keys, np.uint32), position, *rest)
        np.random.RandomState().set_state(found["numpy"])
    if "python" in state:
        version, keys, gauss = state["python"]
        found["python"] = (version, tuple(int(k) for k in unpack(keys, np.uint32)), gauss)
        random.Random().setstate(found["python"])
    return found


def _load_random_state(state: Mapping[str, Any]) -> None:
    found = _parse_random_state(state)
    if "torch" in found:
        torch.set_rng_state(found["torch"])
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["cuda"])
    if "numpy" in found:
        np.random.set_state(found["numpy"])
    if "python" in found:
        random.setstate(found["python"])
