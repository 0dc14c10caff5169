"""A trained model behind HTTP: post an image, get classes with probabilities; and a page to drop images on."""

# No annotations from __future__: FastAPI reads those of the routes, which name what is imported inside a function.

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from ..engine.calibration import Prior
from ..engine.predictor import Predictor
from ..errors import LongtailError, UsageError
from ..hardware import cores

if TYPE_CHECKING:
    from fastapi import FastAPI

# The page is whole in itself, and may talk to this server alone.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:; connect-src 'self'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
FORM_OVERHEAD = 4096  # bytes of a form around its file


def make_app(
    predictor: Predictor, *, top: int = 5, max_bytes: int = 10_000_000, prior: Prior | None = None
) -> "FastAPI":
    """The server as an ASGI application, to run or to mount in one of your own.

    - ``POST /predict`` with an image as the body, or as the field ``file`` of a form: ``{"predictions": [{"label": ...,
      "probability": ...}, ...]}``, best first, with ``accepted`` and ``known`` where the model was calibrated for them.
      ``?top=3`` asks for another number than `top`. 413 for more than `max_bytes`, 415 for what is no image.
    - ``GET /model``: method, classes and limits. ``GET /``: the page.

    `prior` is the class mix of `Predictor.predict`. Raises `UsageError` where a package or the mix is missing, or the model gives
    embeddings.
    """
    try:
        import python_multipart  # noqa: F401
        from anyio import CapacityLimiter, to_thread
        from fastapi import FastAPI, HTTPException, Query, Request
        from fastapi.responses import HTMLResponse
    except ImportError as error:
        raise UsageError(f"Serving needs the package {error.name}: pip install 'longtail[serve]'.") from error
    if prior == "estimate":
        raise UsageError(
            "A class mix is estimated from many images: let `longtail predict --prior estimate` tell it first."
        )
    predictor.stream([], prior=prior)  # says what cannot be done
    app = FastAPI(title="longtail", docs_url=None, redoc_url=None)
    app.add_middleware(_LimitedBody, limit=max_bytes + FORM_OVERHEAD)
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    limiter = CapacityLimiter(cores())  # decoded images are large

    def classify(image: bytes, wanted: int) -> dict[str, Any]:
        (prediction,) = predictor.predict(image, wanted, prior=prior)
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        found = [{"label": label, "probability": round(probability, 6)} for label, probability in pairs]
        return {"predictions": found, **{name: getattr(prediction, name) for name in predictor.verdicts}}

    @app.post("/predict")
    async def predict(
        request: Request, top: Annotated[int, Query(ge=1, le=len(predictor.classes))] = top
    ) -> dict[str, Any]:
        image = await _image(request)
        if len(image) > max_bytes:
            raise HTTPException(413, _too_large(max_bytes))
        if not image:
            raise HTTPException(422, "No image: post one as the body, or as the field 'file' of a form.")
        try:
            return await to_thread.run_sync(classify, image, top, limiter=limiter)
        except LongtailError as error:
            raise HTTPException(415, str(error)) from error

    @app.get("/model")
    def model() -> dict[str, Any]:
        description = predictor.description
        return {
            "method": description.method,
            "classes": list(description.classes),
            "top": min(top, len(description.classes)),
            "max_bytes": max_bytes,
        }

    @app.get("/", response_class=HTMLResponse)
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    return app


async def _image(request: Any) -> bytes:
    from fastapi import HTTPException

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise HTTPException(422, "The form has no file called 'file'.")
        return await file.read()


def _too_large(max_bytes: int) -> str:
    return f"The image has more than {max_bytes / 1e6:g} MB: send a smaller one."


class _LimitedBody:
    """Stops reading a request that is larger than allowed, whatever it announces."""

    def __init__(self, app: Callable[..., Any], limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Any) -> None:
        from fastapi import HTTPException

        received = 0

        async def limited() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, _too_large(self.limit - FORM_OVERHEAD))
            return message

        await self.app(scope, limited, send)


def serve(app: "FastAPI", host: str, port: int, started: Callable[[str], object]) -> None:
    """Serve until interrupted; `started` is told the address. Port 0: any free one. Raises `UsageError` for one that is taken."""
    import uvicorn

    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}. Give another --host or --port."
        ) from error
    with listening:
        name = f"[{host}]" if ":" in host else host
        started(f"http://{name}:{listening.getsockname()[1]}")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with suppress(KeyboardInterrupt):  # how it is stopped
            server.run(sockets=[listening])
