#!/usr/bin/env python3
"""Converts a net and its weights to ONNX, and proves that the result computes the same.

    tools/convert_to_onnx.py --model l4.prototxt --weights models/l4_residual_q10/weights.caffemodel --output l4.onnx
    tools/convert_to_onnx.py --model l4.prototxt --weights W --output model.onnx --image-in-out

Batch, height and width stay dynamic where the net allows; inputs and outputs bear their blobs' names. The result is
run in ONNX Runtime beside the net itself, the largest difference is printed, and one above --tolerance is a failure
(exit 1, and nothing is written). With --image-in-out the model takes float32 luma (N,1,H,W) in 0..255 and gives the
restored luma of the same shape: scaling and reflection padding are inside.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import os
from collections.abc import Sequence

from pycaffe_compat import cli, resources
from pycaffe_compat.export import Deployed, ImageInOut, Proof, check_filled, convert
from pycaffe_compat.files import file_digest
from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.weights import read_weights


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="convert_to_onnx.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--model", required=True, metavar="NET", help="net prototxt; looked for in prototxt/ too")
    add("--weights", required=True, metavar="FILE", help=".caffemodel, .h5 or .safetensors")
    add("--output", required=True, metavar="FILE", help="the .onnx file to write")
    add(
        "--image-in-out",
        action="store_true",
        help="luma 0..255 in, restored luma 0..255 of the same size out",
    )
    add("--phase", choices=["TRAIN", "TEST"], default="TEST", help="of the net's state (default: TEST)")
    add("--stage", type=cli.stages, default="deploy", metavar="A,B", help="stages of the net's state (default: deploy)")
    add(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest difference relative to the output's range (default: 1e-4)",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; 0 when the difference stays within the tolerance."""
    args = parser().parse_args(argv)
    path = resources.net_path(args.model)
    graph = Graph(path, TRAIN if args.phase == "TRAIN" else TEST, stages=args.stage)
    check_filled(graph, graph.load_weights(read_weights(args.weights), args.weights), args.weights)
    model = (ImageInOut if args.image_in_out else Deployed)(graph)
    metadata = {
        "net_file": os.path.basename(path),
        "net_sha256": file_digest(path),
        "weights_file": os.path.basename(args.weights),
        "weights_sha256": file_digest(args.weights),
        "form": "luma 0..255 in, restored luma 0..255 out" if args.image_in_out else "blobs as in the net file",
    }
    convert(model, args.output, args.tolerance, metadata, told=tell)
    print(f"{args.output}: {os.path.getsize(args.output):,} bytes, {model.input_names} to {model.output_names}")
    return 0


def tell(proof: Proof) -> None:
    """Printed before the file is written, or refused."""
    print(f"largest difference between ONNX Runtime and PyTorch: {proof.worst[1]:.3g} of the output's range")


if __name__ == "__main__":
    cli.run(main)
