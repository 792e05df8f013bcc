"""The report in a real headless browser (.ci/system-packages installs one)."""

import json
import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

pytestmark = pytest.mark.e2e
WIDE, NARROW = (1360, 900), (390, 844)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("NO BROWSER, the report's page was NOT tested: run .ci/system-packages")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses its sandbox to root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


@pytest.fixture
def page(browser, run):
    """Opens the report at a size and a colour scheme; in the end the console is empty and the network untouched."""

    def open_page(size=WIDE, scheme="light"):
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get((run / "report.html").as_uri())
        return browser

    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    yield open_page
    browser.execute_script("localStorage.clear()")
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    opened = [url for url in asked if not url.startswith("data:")]
    assert opened and all(url == (run / "report.html").as_uri() for url in opened)


def visible_cards(page):
    return [card for card in page.find_elements(By.CSS_SELECTOR, ".card") if card.is_displayed()]


def data(cards, key):
    return [card.get_attribute(f"data-{key}") for card in cards]


def opacity(page, selector):
    return float(page.execute_script("return getComputedStyle(document.querySelector(arguments[0])).opacity", selector))


def drag(page, slider, value):
    page.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        slider,
        value,
    )


def test_pictures_are_drawn_and_worst_mistakes_come_first(page):
    page = page()
    assert page.title == "run · bikd_fast report"
    cards = visible_cards(page)
    assert len(cards) == 24
    assert all(outcome != "correct" for outcome in data(cards[:4], "outcome"))
    assert all(outcome == "correct" for outcome in data(cards[4:], "outcome"))
    errors = [float(value) for value in data(cards, "error")]
    assert errors == sorted(errors, reverse=True)
    page.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.images].map((image) => image.decode())).then(() => done(true), done);"
    )
    sizes = page.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert len(sizes) == 48 and min(sizes) > 0


def test_slider_leads_from_picture_over_map_to_truth(page):
    page = page()
    card = next(card for card in visible_cards(page) if card.find_elements(By.CSS_SELECTOR, ".truth"))
    name = card.get_attribute("data-name")
    within = f'.card[data-name="{name}"]'
    slider = card.find_element(By.CSS_SELECTOR, "input.view")
    seen = {}
    for value in (0, 50, 100):
        drag(page, slider, value)
        seen[value] = (opacity(page, f"{within} .heat"), opacity(page, f"{within} .truth"))
    assert seen == {0: (0, 0), 50: (1, 0), 100: (0, 1)}
    slider.send_keys(Keys.HOME)  # by keyboard alone
    assert opacity(page, f"{within} .heat") == 0
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    assert opacity(page, f"{within} .heat") == pytest.approx(0.25)
    assert slider.get_attribute("aria-valuetext") == "picture"


def test_one_slider_moves_all(page):
    page = page()
    drag(page, page.find_element(By.ID, "view"), 100)
    views = page.execute_script(
        "return [...document.querySelectorAll('.card')].map((c) => c.style.getPropertyValue('--view'))"
    )
    assert views == ["1"] * 24


def test_gallery_sorts(page):
    page = page()
    order = Select(page.find_element(By.NAME, "order"))
    order.select_by_value("score-up")
    scores = [float(value) for value in data(visible_cards(page), "score")]
    assert scores == sorted(scores)
    order.select_by_value("score-down")
    assert [float(value) for value in data(visible_cards(page), "score")] == scores[::-1]
    order.select_by_value("name")
    names = data(visible_cards(page), "name")
    assert names == sorted(names) and names != data(visible_cards(page), "score")


def test_gallery_filters_by_outcome_category_and_kind(page):
    page = page()
    page.find_element(By.CSS_SELECTOR, 'input[value="missed"]').send_keys(Keys.SPACE)
    assert data(visible_cards(page), "outcome") == ["missed", "missed"]
    Select(page.find_element(By.NAME, "category")).select_by_visible_text("gravel")
    assert data(visible_cards(page), "category") == ["1"]
    assert page.find_element(By.CSS_SELECTOR, '[data-count="false alarm"]').text == "1"
    page.find_element(By.CSS_SELECTOR, 'input[name="outcome"][value=""]').send_keys(Keys.SPACE)
    Select(page.find_element(By.NAME, "kind")).select_by_value("scratch")
    cards = visible_cards(page)
    assert cards and set(data(cards, "kind")) == {"scratch"} and set(data(cards, "category")) == {"1"}
    assert page.find_element(By.ID, "tally").text == f"{len(cards)} pictures"
    page.find_element(By.CSS_SELECTOR, 'input[value="false alarm"]').send_keys(Keys.SPACE)
    assert not visible_cards(page) and page.find_element(By.ID, "nothing").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_the_button(page, scheme):
    page = page(scheme=scheme)

    def brightness():
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.strip("rgb()").split(","))

    first = brightness()
    assert (first > 600) == (scheme == "light")
    page.find_element(By.ID, "theme").click()
    assert (brightness() > 600) == (scheme == "dark")
    page.refresh()
    assert (brightness() > 600) == (scheme == "dark")
    page.find_element(By.ID, "theme").click()
    assert brightness() == first


def test_picture_opens_large_and_the_keyboard_leads_on(page):
    page = page()
    cards = visible_cards(page)
    cards[0].find_element(By.CSS_SELECTOR, ".stage").send_keys(Keys.ENTER)
    viewer = page.find_element(By.ID, "viewer")
    assert viewer.is_displayed()
    file = viewer.find_element(By.CSS_SELECTOR, ".file")
    assert file.text.endswith(data(cards[:1], "name")[0])
    assert "threshold 0.5500" in viewer.find_element(By.CSS_SELECTOR, ".facts").text
    assert len(viewer.find_elements(By.CSS_SELECTOR, ".stage img")) == 2
    viewer.find_element(By.CSS_SELECTOR, "[data-do=next]").send_keys(Keys.ARROW_RIGHT)
    assert file.text.endswith(data(cards[1:2], "name")[0])
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not viewer.is_displayed()
    opener = cards[1].find_element(By.CSS_SELECTOR, ".stage")
    WebDriverWait(page, 5).until(lambda page: page.switch_to.active_element == opener)  # the close event comes later


def test_table_of_scores_searches_and_sorts(page):
    page = page()

    def column(number):
        return [row.text for row in page.find_elements(By.CSS_SELECTOR, f"#rows td:nth-child({number})")]

    assert len(column(1)) == 24
    page.find_element(By.CSS_SELECTOR, '[data-sort="score"]').send_keys(Keys.ENTER)
    scores = [float(value) for value in column(5)]
    assert scores == sorted(scores, reverse=True)
    page.find_element(By.CSS_SELECTOR, '[data-sort="score"]').send_keys(Keys.ENTER)
    assert [float(value) for value in column(5)] == sorted(scores)
    head = page.find_element(By.CSS_SELECTOR, '[aria-sort="ascending"]')
    assert head.text.startswith("Score")
    page.find_element(By.ID, "search").send_keys("gravel missed")
    assert column(1) == ["gravel"] and column(4) == ["missed"]
    assert page.find_element(By.ID, "found").text == "1 of 1 rows found among 24"


def test_another_threshold_is_tried(page):
    page = page()
    text = page.find_element(By.CSS_SELECTOR, ".trialtext")
    assert text.text == (
        "At the recorded threshold 0.5500: 1 of 6 defects missed, 1 of 6 good pictures called defective."
    )
    slider = page.find_element(By.CSS_SELECTOR, ".trialinput")
    drag(page, slider, 1000)
    assert "6 of 6 defects missed, 0 of 6 good pictures called defective." in text.text
    drag(page, slider, 0)
    assert "0 of 6 defects missed, 6 of 6 good pictures called defective." in text.text


def test_tabs_show_one_category(page):
    page = page()
    panels = page.find_elements(By.CSS_SELECTOR, ".panel")
    assert [panel.is_displayed() for panel in panels] == [True, False]
    page.find_element(By.CSS_SELECTOR, '#tabs input[value="1"]').send_keys(Keys.SPACE)
    assert [panel.is_displayed() for panel in panels] == [False, True]


def test_charts_answer_the_pointer(page):
    page = page()
    chart = page.find_element(By.CSS_SELECTOR, "svg.chart[data-names]")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    webdriver.ActionChains(page).move_to_element(chart).perform()
    readout = page.find_element(By.CSS_SELECTOR, ".readout:not([hidden])")
    assert readout.text.startswith("false-alarm rate 0.") and "defects caught" in readout.text


@pytest.mark.parametrize("size", [WIDE, NARROW, (320, 600)])
def test_nothing_sticks_out_sideways(page, size):
    page = page(size)
    root = page.find_element(By.TAG_NAME, "html")
    assert root.get_property("scrollWidth") == root.get_property("clientWidth")
    columns = {card.location["x"] for card in visible_cards(page)}
    assert len(columns) == {1360: 5, 390: 2, 320: 1}[size[0]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page, scheme):
    """WCAG 2.1 AA, 4.5 to 1, for every colour that text takes on the page's background."""
    page = page(scheme=scheme)
    colours = page.execute_script(
        "const style = getComputedStyle(document.documentElement);"
        "return ['paper','ink','soft','accent','bad','warn','ok'].map((n) => style.getPropertyValue('--' + n).trim())"
    )

    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    paper = luminance(colours[0])
    for colour in colours[1:]:
        high, low = max(paper, luminance(colour)), min(paper, luminance(colour))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def test_every_control_can_be_reached_and_has_a_name(page):
    page = page()
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, input, select, svg[role=img]')].filter((e) => !(e.ariaLabel ||"
        " e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label')?.textContent.trim()))"
        ".map((e) => e.outerHTML.slice(0, 90))"
    )
    assert nameless == []
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the pictures"
