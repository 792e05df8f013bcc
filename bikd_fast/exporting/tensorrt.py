"""TensorRT engines, through ONNX, on the machine and for the GPU that they are built on. Needs TensorRT 10 and a CUDA GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bikd_fast.exporting.errors import ExportError
from bikd_fast.exporting.module import Exportable

BATCHES = (1, 8, 32)  # smallest, best, largest


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise ExportError(
            "TensorRT is not installed here. An engine fits only the GPU and the TensorRT version it is built with, so build it "
            "where it will run: pip install tensorrt there, or export --format onnx and give that file to trtexec."
        ) from error
    if not torch.cuda.is_available():
        raise ExportError("--format tensorrt: no CUDA GPU here. Build the engine on the machine where it will run.")
    return tensorrt


Write = Callable[[Exportable, Path, dict[str, Any]], None]


def write_tensorrt(module: Exportable, path: Path, description: dict[str, Any], write_onnx: Write) -> None:
    """Parse the ONNX export and build an engine in single precision (TF32 off, else scores move by more than the gate allows)."""
    trt = _tensorrt()
    between = path.with_suffix(".onnx.tmp")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    try:
        write_onnx(module, between, description)
        if not parser.parse(between.read_bytes()):
            raise ExportError(f"TensorRT does not take this network: {parser.get_error(0)}")
    finally:
        between.unlink(missing_ok=True)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape("pictures", *[(batch, *module.picture_size, 3) for batch in BATCHES])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError("TensorRT could not build an engine of this network; its own log says why.")
    path.write_bytes(bytes(engine))
    path.with_suffix(".inside.json").write_text(json.dumps(description, indent=1))


def open_tensorrt(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Run by TensorRT on the first GPU."""
    trt = _tensorrt()
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    kinds = {trt.float32: torch.float32, trt.bool: torch.bool}

    def run(pictures: np.ndarray) -> dict[str, np.ndarray]:
        given = torch.from_numpy(pictures).cuda()
        context.set_input_shape("pictures", tuple(given.shape))
        context.set_tensor_address("pictures", given.data_ptr())
        found = {}
        for name in outputs:
            shape, kind = tuple(context.get_tensor_shape(name)), kinds[engine.get_tensor_dtype(name)]
            found[name] = torch.empty(shape, dtype=kind, device="cuda")
        for name, tensor in found.items():
            context.set_tensor_address(name, tensor.data_ptr())
        context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    return run
