"""`bikd serve` as a process, and its page in a real browser."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def started(*words, **environment):
    """The service's first two lines, once it answers; with BIKD_TOKEN unset unless given."""
    known = {k: v for k, v in os.environ.items() if k != "BIKD_TOKEN"} | environment
    command = [sys.executable, "-m", "bikd_fast.cli", "serve", *words, "--port", "0"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known)
    try:
        yield service
    finally:
        service.terminate()
        service.wait(30)


def test_a_token_is_made_where_others_can_reach_it_and_the_page_works(run, pictures, tmp_path):
    with started(str(run), "--category", "stripes", "--host", "127.0.0.2") as service:
        first, second = service.stdout.readline(), service.stdout.readline()
        url, token = first.split(" on ")[1].strip(), second.removeprefix("token: ").strip()
        assert len(token) >= 32 and url.startswith("http://127.0.0.2:")
        request = urllib.request.Request(f"{url}/v1/predict", (pictures / "a/1.png").read_bytes(), {"content-type": "image/png"})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)
        request.add_header("authorization", f"Bearer {token}")
        answer = json.load(urllib.request.urlopen(request))
        assert answer["label"] in ("anomalous", "normal") and answer["width"] == 100
        look_at_the_page(url, token, answer, pictures, tmp_path)


def look_at_the_page(url, token, answer, pictures, tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("NO BROWSER, the upload page was NOT tested: run .ci/system-packages")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        wait = WebDriverWait(page, 60)
        page.get(url)
        wait.until(lambda p: "stripes" in p.find_element(By.ID, "categories").text)
        page.find_element(By.ID, "files").send_keys(str(pictures / "a/1.png"))
        wait.until(lambda p: p.find_element(By.ID, "access").is_displayed())  # refused: the page asks for the token
        assert "token is needed" in page.find_element(By.CSS_SELECTOR, "article.failed .verdict").text
        page.find_element(By.ID, "token").send_keys(token)
        page.find_element(By.CSS_SELECTOR, "#access button").click()
        (tmp_path / "<img src=x onerror=alert(1)>.png").write_bytes(b"no picture")
        page.find_element(By.ID, "files").send_keys(f"{pictures}/a/1.png\n{tmp_path}/<img src=x onerror=alert(1)>.png")
        wait.until(lambda p: len(p.find_elements(By.CSS_SELECTOR, "article")) == 3)
        bad, good = page.find_elements(By.CSS_SELECTOR, "article")[:2]
        assert good.find_element(By.CSS_SELECTOR, ".verdict").text == answer["label"]
        assert f"{answer['score']:.4g}"[:4] in good.find_element(By.CSS_SELECTOR, ".numbers").text
        width = "return arguments[0].naturalWidth"
        wait.until(lambda p: p.execute_script(width, good.find_element(By.TAG_NAME, "img")) == 100)
        assert "no picture of a format" in bad.text and "<img src=x" in bad.text  # shown as text, not run
        errors = [entry["message"] for entry in page.get_log("browser")]
        assert len(errors) == 2 and "401" in errors[0] and "415" in errors[1]
        events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert len(asked) >= 6 and all(a.startswith((url, "data:", "blob:", "chrome:")) for a in asked)
    finally:
        page.quit()


def test_a_run_that_is_not_there_is_one_line(tmp_path):
    with started(str(tmp_path / "nowhere")) as service:
        out, err = service.communicate(timeout=60)
        assert service.returncode == 2 and out == "" and err.startswith("error: ") and len(err.strip().splitlines()) == 1
