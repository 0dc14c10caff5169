"""`longtail serve`, over the loopback with a real client, and its page in a real browser."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import longtail as package
from longtail.data.sources import open_source

httpx = pytest.importorskip("httpx", reason="needs httpx: pip install httpx")
pytest.importorskip("uvicorn", reason="needs longtail[serve]")
pytest.importorskip("fastapi", reason="needs longtail[serve]")


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def image() -> bytes:
    return png(np.squeeze(open_source("fashion-mnist-lt").test.read(3)))


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    folder = shutil.copytree(trained_run, tmp_path_factory.mktemp("serve") / "run")
    package.calibrate(folder, precision=0.7, reject=0.1)
    return folder


@pytest.fixture(scope="module")
def server(run):
    """The address of a server in its own process, which takes images of up to 20 kB."""
    words = [sys.executable, "-u", "-m", "longtail", "serve", str(run), "--port", "0", "--max-mb", "0.02", "--top", "3"]
    environment = {**os.environ, "COLUMNS": "500"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert "Ctrl-C stops it" in line, process.stderr.read()
        yield re.search(r"http://\S+", line).group()
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as client:
        yield client


def test_an_image_gets_what_predict_says(client, run, image):
    expected = package.load(run).predict(image, top=3)[0]
    by_body = client.post("/predict", content=image)
    by_form = client.post("/predict", files={"file": ("a.png", image, "image/png")})
    assert by_body.status_code == by_form.status_code == 200
    assert by_body.json() == by_form.json()
    found = by_body.json()
    assert [row["label"] for row in found["predictions"]] == list(expected.labels)
    assert [row["probability"] for row in found["predictions"]] == pytest.approx(expected.probabilities, abs=1e-5)
    assert (found["accepted"], found["known"]) == (list(expected.accepted), expected.known)
    assert len(client.post("/predict?top=7", content=image).json()["predictions"]) == 7


@pytest.mark.parametrize(
    ("request_", "status", "detail"),
    [
        ({"content": b"no image"}, 415, "Cannot read an image: not an image"),
        ({"content": b""}, 422, "No image: post one as the body"),
        ({"content": bytes(20_001)}, 413, "more than 0.02 MB"),
        ({"content": bytes(3_000_000)}, 413, "more than 0.02 MB"),
        ({"files": {"file": ("a.png", bytes(3_000_000), "image/png")}}, 413, "more than 0.02 MB"),
        ({"files": {"image": ("a.png", b"1", "image/png")}}, 422, "no file called 'file'"),
        ({"files": {"file": ("a.html", b"<html>", "text/html")}}, 415, "not an image"),
        ({"content": b"--", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"params": {"top": 11}, "content": b"x"}, 422, "less than or equal to 10"),
        ({"params": {"top": "all"}, "content": b"x"}, 422, "valid integer"),
    ],
)
def test_what_is_refused(client, request_, status, detail):
    answer = client.post("/predict", **request_)
    assert answer.status_code == status, answer.text
    assert detail in str(answer.json()["detail"])


def test_a_body_without_an_announced_length(client):
    def chunks():
        for _ in range(30):
            yield bytes(1000)

    assert client.post("/predict", content=chunks()).status_code == 413


def test_the_model_and_the_page(client):
    model = client.get("/model").json()
    assert (model["method"], len(model["classes"]), model["top"], model["max_bytes"]) == ("ce", 10, 3, 20_000)
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/docs").status_code == 404  # would ask another server for its scripts


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_in_a_browser(chromium, server, image, width):
    complaints: list[str] = []
    context = chromium.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if server not in request.url else None)
    page.goto(server)
    page.get_by_text("One of 10 classes").wait_for()
    name = "<script>window.harm = 1</script>.png"
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": image})
    page.locator("li").nth(2).wait_for()
    assert page.locator("h2").inner_text() == name
    assert page.locator("li").count() == 3
    assert re.match(r"\S.*\n\d+\.\d %", page.locator("li").first.inner_text())
    page.set_input_files("#file", {"name": "large.png", "mimeType": "image/png", "buffer": bytes(30_000)})
    page.get_by_text("More than 0.02 MB").wait_for()
    assert page.evaluate("window.harm") is None
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.evaluate(  # dropped, as from a file manager
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["no image"], "note.txt"));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }"""
    )
    page.get_by_text("Cannot read an image").wait_for()
    # The browser reports failed requests by itself, and nothing else.
    assert all("415" in text or text.startswith("blob:") for text in complaints), complaints
    context.close()


def test_what_cannot_be_served(longtail, run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = longtail("serve", run, "--port", port)
    assert code == 2
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use. Give another --host or --port." in err
    code, _, err = longtail("serve", run, "--prior", "estimate")
    assert (code, "predict --prior estimate" in err) == (2, True)
    code, _, err = longtail("serve", tmp_path)
    assert (code, "holds no model.json" in err) == (2, True)


def test_a_missing_package_is_named(run, monkeypatch):
    from longtail.errors import UsageError
    from longtail.ship.serve import make_app

    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(UsageError, match=r"needs the package fastapi: pip install 'longtail\[serve\]'"):
        make_app(package.load(run))
