"""The formats: how each is written, and how a written file is run again."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bikd_fast.exporting.errors import ExportError
from bikd_fast.exporting.module import Exportable
from bikd_fast.exporting.tensorrt import open_tensorrt, write_tensorrt

Outputs = dict[str, np.ndarray]
Runner = Callable[[np.ndarray], Outputs]  # uint8 (B, H, W, 3) -> outputs by name
LARGEST_BATCH = 1024
KEY = "bikd_fast"  # of the description inside the file


@dataclass(frozen=True)
class Format:
    """suffix: of the file. write(module, path, description). open(path): run what was written, in single precision."""

    suffix: str
    write: Callable[[Exportable, Path, dict[str, Any]], None]
    open: Callable[[Path], Runner]


def program(module: torch.nn.Module, picture_size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The module as one graph of plain operators, for any batch."""
    example = torch.zeros(2, *picture_size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with torch.no_grad():
        return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},), strict=False)


def write_onnx(module: Exportable, path: Path, description: dict[str, Any]) -> None:
    """One ONNX file, weights inside, opset 18 or later; the batch is free."""
    _needs("onnx", "onnxscript")
    size, names = module.picture_size, list(module.outputs)
    exported = program(module, size)
    example = (torch.zeros(2, *size, 3, dtype=torch.uint8),)
    with _quiet():
        made = torch.onnx.export(
            exported, example, dynamo=True, optimize=True, input_names=["pictures"], output_names=names, verbose=False
        )
    assert made is not None
    model = made.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(description)
    path.write_bytes(model.SerializeToString())


def open_onnx(path: Path) -> Runner:
    """Run by onnxruntime on the CPU."""
    _needs("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pictures: dict(zip(names, session.run(names, {"pictures": pictures})))


def write_torch(module: Exportable, path: Path, description: dict[str, Any]) -> None:
    """A torch.export archive (.pt2): the graph as JSON, the weights as raw bytes, nothing pickled."""
    exported = program(module, module.picture_size)
    exported._example_inputs = None  # the one part that torch.export.save would pickle
    with _quiet():
        torch.export.save(exported, path, extra_files={f"{KEY}.json": json.dumps(description)})


def open_torch(path: Path) -> Runner:
    """Run by PyTorch on the CPU."""
    extra = {f"{KEY}.json": ""}
    with _quiet():
        loaded = torch.export.load(path, extra_files=extra)
    names = list(json.loads(extra[f"{KEY}.json"])["outputs"])
    network = loaded.module()

    def run(pictures: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in zip(names, network(torch.from_numpy(pictures)))}

    return run


def write_openvino(module: Exportable, path: Path, description: dict[str, Any]) -> None:
    """OpenVINO's pair FILE.xml and FILE.bin, through ONNX, weights in single precision."""
    _needs("openvino")
    import openvino

    between = path.with_suffix(".onnx.tmp")
    try:
        write_onnx(module, between, description)
        model = openvino.Core().read_model(between.read_bytes())
    finally:
        between.unlink(missing_ok=True)
    model.set_rt_info(json.dumps(description), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def open_openvino(path: Path) -> Runner:
    """Run by OpenVINO on the CPU, in single precision: left alone it computes in bfloat16 where the CPU can."""
    _needs("openvino")
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    names = [output.any_name for output in compiled.outputs]

    def run(pictures: np.ndarray) -> Outputs:
        found = compiled([pictures])
        return {name: np.array(found[i]) for i, name in enumerate(names)}

    return run


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", write_onnx, open_onnx),
    "torch": Format(".pt2", write_torch, open_torch),
    "openvino": Format(".xml", write_openvino, open_openvino),
    "tensorrt": Format(".engine", lambda m, p, d: write_tensorrt(m, p, d, write_onnx), open_tensorrt),
}


def _needs(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ExportError(f"this format needs {package}: pip install 'bikd_fast[export]'.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own chatter: what matters is said by the parity check."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
