"""The studio in a real headless browser: draw, cancel, edit, restore. Skipped where Chromium is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("the studio's tests need chromium and chromium-driver (Debian packages)", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from .conftest import Brake, running, wait_until


@pytest.fixture(scope="module")
def page(tiny) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def studio(page, tiny):
    with running(tiny) as live:
        page.get(live.url)
        wait_until(lambda: "tiny" in _text(page, "model"), 30)
        yield page, live
    severe = [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe


def _text(page, name: str) -> str:
    return page.find_element(By.ID, name).text


def _fill(page, name: str, value: str) -> None:
    field = page.find_element(By.ID, name)
    field.clear()
    field.send_keys(value)


def _draw(page, prompt: str, seed: int) -> None:
    before = len(page.find_elements(By.CSS_SELECTOR, "#history li"))
    _fill(page, "prompt", prompt)
    _fill(page, "seed", str(seed))
    page.find_element(By.ID, "draw").click()
    wait_until(lambda: len(page.find_elements(By.CSS_SELECTOR, "#history li")) == before + 1, 30)
    wait_until(lambda: "drawn in" in _text(page, "status"), 30)


def test_draws_and_tells_the_recipe(studio):
    page, _ = studio
    _draw(page, "a red circle", 5)
    assert "seed 5" in _text(page, "status")
    assert "a red circle" in _text(page, "recipe")
    picture = page.find_element(By.ID, "picture")
    wait_until(lambda: picture.get_property("naturalWidth") == 64, 10)
    assert picture.get_attribute("alt") == "a red circle"
    assert page.find_element(By.ID, "download").get_attribute("download") == "a-red-circle-5.png"


def test_keys_draw_and_cancel(studio):
    page, live = studio
    brake = Brake(live)
    brake.on()
    prompt = page.find_element(By.ID, "prompt")
    _fill(page, "prompt", "a cat")
    prompt.send_keys(Keys.CONTROL, Keys.ENTER)
    wait_until(lambda: page.find_element(By.ID, "cancel").is_displayed(), 10)
    prompt.send_keys(Keys.ESCAPE)
    wait_until(lambda: _text(page, "status") == "Cancelled.", 10)
    brake.off()
    wait_until(lambda: live.engine.metrics.pictures.value(outcome="cancelled") == 1, 10)
    assert not page.find_elements(By.CSS_SELECTOR, "#history li")


def test_edits_what_it_drew(studio):
    page, live = studio
    _draw(page, "a green square", 1)
    page.find_element(By.ID, "edit").click()
    assert _text(page, "draw") == "Edit"
    _draw(page, "make it blue", 2)
    assert live.engine.metrics.pictures.value(outcome="done") == 2
    assert "Edits" in _text(page, "recipe")
    page.find_element(By.CSS_SELECTOR, "#inputs button").click()
    assert _text(page, "draw") == "Draw"


def test_a_dropped_picture_restores_its_recipe(studio):
    page, live = studio
    body = {"prompt": "a cat", "seed": 9}
    picture = httpx.post(f"{live.url}/v1/images/generations", json=body, timeout=30).json()["data"][0]["b64_json"]
    _fill(page, "prompt", "something else")
    page.execute_script(
        """
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "x.png", { type: "image/png" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        """,
        picture,
    )
    wait_until(lambda: _text(page, "status").startswith("Recipe restored"), 10)
    assert page.find_element(By.ID, "prompt").get_property("value") == "a cat"
    assert page.find_element(By.ID, "seed").get_property("value") == "9"


def test_every_control_has_a_name(studio):
    page, _ = studio
    page.execute_script("document.querySelector('details').open = true")
    controls = page.find_elements(By.CSS_SELECTOR, "input, textarea, select, button, a")
    unnamed = [c.get_attribute("id") for c in controls if c.is_displayed() and not c.accessible_name]
    assert len(controls) > 10
    assert not unnamed


def test_nothing_is_wider_than_a_phone(studio):
    page, _ = studio
    page.set_window_size(390, 800)
    try:
        inner, width = page.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert width <= inner
    finally:
        page.set_window_size(1280, 900)
