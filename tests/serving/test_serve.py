"""The service: answers equal the detector's, strangers get 4xx, many clients at once get their own answers."""

import base64
import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny_detector import make_detector, make_picture

fastapi = pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from bikd_fast import serve  # noqa: E402
from bikd_fast.errors import guarded  # noqa: E402
from bikd_fast.serving.app import create_app  # noqa: E402
from bikd_fast.serving.settings import Limits  # noqa: E402

LIMITS = Limits(upload_bytes=200_000, pixels=100_000, seconds=20.0, waiting=64, batch=4)


@contextlib.contextmanager
def serving(app):
    """Port of the app on a real socket of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(detector):
    with serving(create_app(detector, limits=LIMITS)) as port:
        yield port


def ask(port, method="POST", path="/v1/predict", body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, bytes | None))
        answer = connection.getresponse()
        data = answer.read()
    is_json = "json" in (answer.getheader("content-type") or "")
    return answer.status, json.loads(data) if is_json else data, answer


def file_of(picture, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def form(data, name="file", filename="x.png", boundary="frontier"):
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


PNG = {"content-type": "image/png"}


def test_answers_are_the_detectors(port, detector):
    for i in range(4):
        picture = make_picture(i)
        known = detector.predict(picture)
        for body, headers in ((file_of(picture), PNG), form(file_of(picture))):
            status, found, _ = ask(port, body=body, headers=headers)
            assert status == 200 and found["score"] == pytest.approx(known.scores.item(), rel=1e-5)
            assert found["label"] == ("anomalous" if known.labels.item() else "normal")
            assert found["threshold"] == known.threshold and (found["width"], found["height"]) == (100, 80)
            assert found["heatmap"] is None and (len(found["regions"]) > 0) == bool(known.masks.any())
    bmp = {"content-type": "image/bmp"}
    status, found, _ = ask(port, path="/v1/predict?heatmap=true", body=file_of(picture, "BMP"), headers=bmp)
    head, _, data = found["heatmap"].partition(",")
    assert head == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(data))).size == (100, 80)


def test_without_a_threshold_nothing_is_said_to_be_normal():
    with serving(create_app(make_detector(), limits=LIMITS)) as port:
        status, found, _ = ask(port, body=file_of(make_picture(1)), headers=PNG)
    assert status == 200 and found["label"] == "unknown" and found["threshold"] is None and found["regions"] is None


def png_header(width, height):
    """A valid PNG of width x height in name, with hardly a pixel in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


def zip_bomb(megabytes=64):
    """A small file of a small picture whose one row of pixels unpacks to far more than it should."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (megabytes << 20), 9))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", zlib.compress(bytes(25 * 8))) + chunk(b"IEND", b"")


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: "
GOOD = file_of(make_picture(0))
NOISE = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
HOSTILE = {
    "empty": (b"", PNG, 400),
    "not a picture": (b"<?php system($_GET[0]); ?>", PNG, 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", {"content-type": "image/svg+xml"}, 415),
    "text": (b"hello", {"content-type": "text/plain"}, 415),
    "json": (b"{}", {"content-type": "application/json"}, 415),
    "no type": (GOOD, {}, 415),
    "gif": (file_of(make_picture(0), "GIF"), {"content-type": "image/gif"}, 415),
    "truncated png": (GOOD[: len(GOOD) // 2], PNG, 400),
    "truncated jpeg": (file_of(NOISE, "JPEG")[:700], {"content-type": "image/jpeg"}, 400),
    "only a signature": (b"\x89PNG\r\n\x1a\n", PNG, 415),
    "flipped bytes": (GOOD[:100] + bytes(255 - b for b in GOOD[100:400]) + GOOD[400:], PNG, 400),
    "too many pixels": (png_header(50_000, 50_000), PNG, 413),
    "a little too many pixels": (png_header(1001, 100), PNG, 413),
    "text bomb": (zip_bomb(), PNG, 400),
    "too many bytes": (bytes(200_001), PNG, 413),
    "form without a file": (b"--frontier--\r\n", {"content-type": "multipart/form-data; boundary=frontier"}, 400),
    "form without boundary": (GOOD, {"content-type": "multipart/form-data"}, 400),
    "form cut short": (form(GOOD)[0][:-40], form(GOOD)[1], 400),
    "form of nonsense": (b"\xff" * 2000, {"content-type": "multipart/form-data; boundary=x"}, 400),
    "form with two files": (form(GOOD)[0][:-15] + b"\r\n" + form(GOOD)[0], form(GOOD)[1], 400),
    "form with an empty file": (*form(b""), 400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_are_refused(port, name):
    body, headers, wanted = HOSTILE[name]
    status, found, _ = ask(port, body=body, headers=headers)
    assert status == wanted, found
    assert len(found["error"]) > 10 and "Traceback" not in found["error"] and ".py" not in found["error"]
    assert ask(port, body=GOOD, headers=PNG)[0] == 200  # and the service goes on


def test_other_wrong_requests(port):
    assert ask(port, path="/v1/predict?heatmap=perhaps", body=GOOD, headers=PNG)[0] == 422
    assert ask(port, "GET")[0] == 405 and ask(port, "GET", "/../../etc/passwd")[0] == 404
    assert ask(port, "GET", "/docs")[0] == 404  # it would load scripts from elsewhere
    assert ask(port, body=GOOD, headers={**PNG, "host": "evil.example"})[0] == 421
    for host in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1"):
        assert ask(port, body=GOOD, headers={**PNG, "host": host})[0] == 200


def test_bodies_that_lie_about_their_length(port):
    def chunks():
        for _ in range(60):
            yield bytes(5000)

    status, found, _ = ask(port, body=chunks(), headers={**PNG, "transfer-encoding": "chunked"})
    assert status == 413 and "200000 bytes" in found["error"]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(HEAD + b"99999999999\r\n\r\n")
        assert b" 413 " in raw.recv(100)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:  # gone in the middle of its body
        raw.sendall(HEAD + b"5000\r\n\r\nabc")
    assert ask(port, body=GOOD, headers=PNG)[0] == 200


def test_a_body_that_never_ends_is_not_waited_for(detector):
    with serving(create_app(detector, limits=Limits(seconds=0.5))) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(HEAD + b"5000\r\n\r\nabc")
            assert b" 408 " in raw.recv(100)


def test_many_clients_get_their_own_answers(port, detector):
    pictures = [make_picture(i) for i in range(10)]
    known = detector.predict(pictures).scores.tolist()
    files, wrong = [file_of(p) for p in pictures], []

    def client(number):
        for turn in range(4):
            i = (number + turn) % 10
            status, found, _ = ask(port, body=files[i], headers=PNG)
            if status != 200 or abs(found["score"] - known[i]) > 1e-4 * abs(known[i]):
                wrong.append((status, found))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    text = ask(port, "GET", "/metrics")[1].decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    assert float(lines["bikd_batch_pictures_count"]) < float(lines["bikd_batch_pictures_sum"])  # some went together
    assert float(lines['bikd_requests_total{path="/v1/predict",status="200"}']) >= 64
    assert "etc/passwd" not in text


def test_health_and_description(port, detector):
    status, found, _ = ask(port, "GET", "/health")
    assert status == 200 and found["status"] == "ok" and found["categories"] == ["stripes"]
    assert found["threshold"] == detector.threshold.item() and found["promise"] == "made up for a test."
    status, found, _ = ask(port, "GET", "/openapi.json")
    operation = found["paths"]["/v1/predict"]["post"]
    assert {"multipart/form-data", "image/*"} <= set(operation["requestBody"]["content"]) and "413" in operation["responses"]


def test_the_page_asks_nobody_else(port):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")):
        status, text, answer = ask(port, "GET", path)
        assert status == 200 and kind in answer.getheader("content-type") and b"//" not in text.replace(b"// ", b"")
        assert "default-src 'self'" in answer.getheader("content-security-policy")


def test_a_token_is_asked_of_everybody(detector):
    with serving(create_app(detector, limits=LIMITS, token="s3cret")) as port:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"authorization": "Basic s3cret"}):
            for method, path in (("POST", "/v1/predict"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nowhere")):
                status, _, answer = ask(port, method, path, GOOD if method == "POST" else None, {**PNG, **headers})
                assert status == 401 and answer.getheader("www-authenticate") == "Bearer"
        given = {**PNG, "authorization": "Bearer s3cret", "host": "line7.factory"}
        assert ask(port, body=GOOD, headers=given)[0] == 200
        assert ask(port, "GET", "/health")[0] == 200 and ask(port, "GET", "/")[0] == 200


def test_too_much_at_once_is_sent_away_and_a_broken_network_is_said():
    slow = make_detector(1.0, 1.0)
    entered, go = threading.Event(), threading.Event()
    real = slow.forward

    def forward(x):
        entered.set()
        go.wait(20)
        return real(x)

    with serving(create_app(slow, limits=Limits(waiting=2, batch=1, seconds=15))) as port:
        slow.forward = forward
        statuses = []
        threads = [threading.Thread(target=lambda: statuses.append(ask(port, body=GOOD, headers=PNG)[0])) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert entered.wait(10)
        deadline = time.time() + 10
        while statuses.count(503) < 5 and time.time() < deadline:
            time.sleep(0.02)
        go.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 3 + [503] * 5  # one in the network, two waiting

        def broken(x):
            raise RuntimeError("out of memory")

        slow.forward = broken
        status, found, _ = ask(port, body=GOOD, headers=PNG)
        assert status == 500 and found == {"error": "the service failed (RuntimeError); its log says more"}
        status, found, _ = ask(port, "GET", "/health")
        assert status == 503 and found["status"] == "failing"
        slow.forward = real
        assert ask(port, body=GOOD, headers=PNG)[0] == 200 and ask(port, "GET", "/health")[0] == 200


def test_a_page_of_another_origin_has_nothing_judged(port, detector):
    own = {"origin": f"http://127.0.0.1:{port}", "sec-fetch-site": "same-origin"}
    assert ask(port, body=GOOD, headers={**PNG, **own})[0] == 200
    for foreign in ({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": f"http://127.0.0.1:{port + 1}"},
                    {"sec-fetch-site": "cross-site"}):
        status, found, _ = ask(port, body=GOOD, headers={**PNG, **foreign})
        assert status == 403 and "page of another origin" in found["error"]
    with serving(create_app(detector, limits=LIMITS, token="s3cret")) as other:
        given = {**PNG, "authorization": "Bearer s3cret", "origin": "https://line7.factory"}
        assert ask(other, body=GOOD, headers=given)[0] == 200  # whoever has the token may


def test_uploads_hold_no_more_memory_than_allowed_together(detector):
    limits = Limits(upload_bytes=len(GOOD) + 10, held_bytes=len(GOOD) + 100, seconds=15)
    with serving(create_app(detector, limits=limits)) as port:
        waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        waiting.putrequest("POST", "/v1/predict")
        waiting.putheader("content-type", "image/png")
        waiting.putheader("content-length", str(len(GOOD)))
        waiting.endheaders(GOOD[:200])
        deadline = time.time() + 10
        while (status := ask(port, body=GOOD, headers=PNG)[0]) != 503 and time.time() < deadline:
            time.sleep(0.02)
        assert status == 503
        waiting.send(GOOD[200:])
        assert waiting.getresponse().status == 200
        waiting.close()
        assert ask(port, body=GOOD, headers=PNG)[0] == 200  # nothing stays counted


@pytest.mark.parametrize("words", [["--port", "99999"], ["--port", "-1"], ["--max-upload-mb", "nan"], ["--max-upload-mb", "-1"],
                                   ["--batch", "0"], ["--max-pixels", "0"]])
def test_numbers_that_cannot_be_are_refused_before_anything_is_loaded(words, capsys):
    with pytest.raises(SystemExit) as refused:
        serve.main(["nowhere", *words])
    assert refused.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert guarded(lambda: serve.main([str(run / "dots"), "--port", port])) == 2
    said = f"error: --host 127.0.0.1 --port {port}: cannot be listened on (Address already in use)"
    assert capsys.readouterr().err.startswith(said)
