"""The HTTP service: one detector, an upload page, a JSON API."""

from __future__ import annotations

import asyncio
import base64
import io
import math
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from bikd_fast.data import fit
from bikd_fast.data.threads import default_threads
from bikd_fast.inference.regions import regions
from bikd_fast.inference.writers import verdict
from bikd_fast.models.detector import Detector
from bikd_fast.report.overlay import draw_overlay
from bikd_fast.serving.batching import Batcher
from bikd_fast.serving.guard import OPEN, Guard, extra_headers
from bikd_fast.serving.measures import Measures
from bikd_fast.serving.settings import Limits
from bikd_fast.serving.uploads import Refused, decode

PAGE = Path(__file__).parent / "page"
SHOWN_SIDE = 1024  # pixels, of the heat maps that are sent back
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class Region(BaseModel):
    """A connected region above the pixel threshold; coordinates in pixels of the picture."""

    peak: float
    area: int = Field(description="pixels of the picture")
    box: list[float] = Field(description="left, top, right, bottom")
    polygons: list[list[list[float]]] = Field(description="closed outlines [[x, y], ...]; holes run the other way round")


class Answer(BaseModel):
    """What was found in one picture."""

    score: float = Field(description="higher is more anomalous")
    threshold: float | None = Field(description="null where the detector has none")
    label: Literal["anomalous", "normal", "unknown"]
    width: int
    height: int
    regions: list[Region] | None = Field(description="the highest peak first; null where the detector has no threshold of a pixel")
    heatmap: str | None = Field(default=None, description="data URL of a JPEG, if asked for")


class Problem(BaseModel):
    """Why a request was refused."""

    error: str


class State(BaseModel):
    """Whether the service can answer, and with what."""

    status: Literal["ok", "failing"]
    categories: list[str]
    version: str
    threshold: float | None
    promise: str = Field(description="what the threshold promises")


def create_app(
    detector: Detector, *, limits: Limits | None = None, token: str | None = None, colours: tuple[float, float] | None = None
) -> Guard:
    """The service as an ASGI application.

    token: asked of everyone but for the page and /health; None answers local requests only. colours: of heat maps.
    """
    limits = limits or Limits()
    measures = Measures()
    batcher = Batcher(detector, limits, measures)
    decoding = ThreadPoolExecutor(default_threads(), thread_name_prefix="decode")  # also bounds what decoding holds in memory
    threshold, pixel_threshold = detector.threshold.item(), detector.pixel_threshold.item()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        size = detector.image_size  # the first request of a process would wait for imports and allocations
        anomaly, _score = await batcher.ask(torch.zeros(3, size, size, dtype=torch.uint8))
        _found(anomaly.numpy(), float(anomaly.mean()), (size, size), None, None)
        yield
        await batcher.stop()
        decoding.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="bikd_fast", version=version("bikd_fast"), docs_url=None, redoc_url=None, lifespan=lifespan)
    refusals: dict[int | str, dict[str, Any]] = {s: {"model": Problem} for s in (400, 401, 408, 413, 415, 422, 503)}

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse({"error": error.reason}, error.status, extra_headers(error.status))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:  # which goes on into the log with its traceback
        return JSONResponse({"error": f"the service failed ({type(error).__name__}); its log says more"}, 500)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)

    @app.post("/v1/predict", response_model=Answer, responses=refusals, openapi_extra=_BODY, summary="Judge one picture")
    async def predict(
        request: Request, heatmap: Annotated[bool, Query(description="send back the picture under its heat map")] = False
    ) -> Answer:
        data = await _upload(request)
        on_thread = partial(asyncio.get_running_loop().run_in_executor, decoding)
        try:
            async with asyncio.timeout(limits.seconds):
                square, shown, size = await on_thread(_read, data, detector.image_size, limits, heatmap)
                del data
                anomaly, score = await batcher.ask(square)
                found = await on_thread(_found, anomaly.numpy(), pixel_threshold, size, shown, colours)
        except TimeoutError:
            raise Refused(503, f"no answer within {limits.seconds:.0f} seconds: too much to do; try again in a moment") from None
        label = verdict(score, threshold)
        measures.pictures.labels(label).inc()
        if threshold > 0:
            measures.score.observe(score / threshold)
        judged = None if math.isnan(threshold) else threshold
        return Answer(score=score, threshold=judged, label=label, width=size[1], height=size[0], **found)

    @app.get("/health", response_model=State, summary="Whether the service can answer")
    async def health() -> Response:
        about = detector.about.get("threshold", {})
        state = State(
            status="ok" if batcher.alive else "failing",
            categories=detector.about.get("categories") or [],
            version=version("bikd_fast"),
            threshold=None if math.isnan(threshold) else threshold,
            promise=about.get("promise", "no threshold was chosen"),
        )
        return JSONResponse(state.model_dump(), 200 if batcher.alive else 503)

    @app.get("/metrics", summary="Measures in Prometheus' text format")
    async def metrics() -> Response:
        return Response(measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, name in (("/", "index.html"), ("/page.css", "page.css"), ("/page.js", "page.js")):
        app.get(path, include_in_schema=False)(partial(_file, PAGE / name))
    paths = OPEN | {"/v1/predict", "/metrics", "/openapi.json"}
    return Guard(app, limits, measures, token, paths)


async def _file(path: Path) -> FileResponse:
    return FileResponse(path)


async def _upload(request: Request) -> bytes:
    """The picture's bytes, from a form with one file or from the body itself."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            async with request.form(max_files=1, max_fields=4) as form:
                files = [value for value in form.values() if isinstance(value, UploadFile)]
                if len(files) != 1:
                    raise Refused(400, "the form holds no file: send the picture as the field 'file'")
                return await files[0].read()
        if kind.startswith("image/") or kind == "application/octet-stream":
            return await request.body()
    except ClientDisconnect:
        raise Refused(400, "the upload was cut short") from None
    except MultiPartException as error:
        raise Refused(400, f"the form is malformed: {error.message}") from None
    except Refused:
        raise
    except (ValueError, KeyError, AssertionError) as error:
        raise Refused(400, f"the form is malformed ({type(error).__name__})") from None
    raise Refused(415, f"content type {kind[:80] or 'missing'}: send multipart/form-data or image/*")


def _read(data: bytes, size: int, limits: Limits, keep: bool) -> tuple[torch.Tensor, np.ndarray | None, tuple[int, int]]:
    """Bytes -> the detector's square, a copy to draw on if it is kept, and (height, width)."""
    picture = decode(data, limits)
    square = fit(torch.from_numpy(picture).permute(2, 0, 1), size)
    if not keep:
        return square, None, (picture.shape[0], picture.shape[1])
    shown = Image.fromarray(picture)
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)
    return square, np.asarray(shown), (picture.shape[0], picture.shape[1])


def _found(
    anomaly: np.ndarray, threshold: float, size: tuple[int, int], shown: np.ndarray | None, colours: tuple[float, float] | None
) -> dict[str, Any]:
    """Regions, and the heat map if there is a picture to draw it on."""
    found: dict[str, Any] = {"regions": regions(anomaly, threshold, *size)}
    if shown is not None:
        low, high = colours or (float(np.median(anomaly)), float(anomaly.max()) + 1e-6)
        buffer = io.BytesIO()
        Image.fromarray(draw_overlay(shown, anomaly, threshold=threshold, low=low, high=high)).save(buffer, "JPEG", quality=88)
        found["heatmap"] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return found
