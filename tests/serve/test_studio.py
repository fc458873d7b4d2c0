"""The studio in a real headless browser: draw, enhance, edit, mask, cancel, restore. Skipped without Chromium."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch

pytest.importorskip("selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("the studio's tests need chromium and chromium-driver (Debian packages)", allow_module_level=True)

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fourstroke.lora import LoraConfig, add_lora, lora_parameters, save_lora
from fourstroke.pipeline import Pipeline

from .conftest import Brake, running, wait_until
from .test_enhance import Rewriter, enhanced


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
    """What an element says; the page may put a new one in its place between finding and reading."""
    for _ in range(20):
        with contextlib.suppress(StaleElementReferenceException):
            return page.find_element(By.ID, name).text
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
    wait_until(lambda: "rawn in" in _text(page, "status"), 30)


def test_draws_and_tells_the_settings(studio):
    page, _ = studio
    _draw(page, "a red circle", 5)
    assert "seed 5" in _text(page, "status")
    assert "a red circle" in _text(page, "settings")
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
    assert "Edits" in _text(page, "settings")
    page.find_element(By.CSS_SELECTOR, "#inputs button").click()
    assert _text(page, "draw") == "Draw"


def test_enhance_shows_the_rewrite_and_draws_what_was_made_of_it(page):
    with running(enhanced(Rewriter())) as live:
        page.get(live.url)
        wait_until(lambda: "tiny" in _text(page, "model"), 30)
        _fill(page, "prompt", "a cat")
        page.find_element(By.ID, "enhance").click()
        rewrite = page.find_element(By.ID, "rewrite")
        wait_until(rewrite.is_displayed, 10)
        assert rewrite.get_property("value") == "a cat in soft light"
        assert page.find_element(By.ID, "size").get_property("value") == "32x64"
        assert "it says little" in _text(page, "rewrite-note")
        rewrite.send_keys(", and green")
        page.find_element(By.ID, "draw").click()
        wait_until(lambda: "rawn in" in _text(page, "status"), 30)
        assert "a cat in soft light, and green" in _text(page, "settings")
        page.find_element(By.ID, "own").click()
        page.find_element(By.ID, "draw").click()
        wait_until(lambda: "in soft light" not in _text(page, "settings"), 30)


def test_enhance_is_off_with_a_reason_where_there_is_nobody_to_ask(studio):
    page, _ = studio
    assert not page.find_element(By.ID, "enhance").is_enabled()
    assert "no prompt enhancer" in _text(page, "enhance-note")


def _pixels(page) -> np.ndarray:
    """What the picture on the stage holds."""
    picture = page.find_element(By.ID, "picture")
    wait_until(lambda: picture.get_property("complete") and picture.get_property("naturalWidth"), 10)
    values = page.execute_script(
        """
        const image = document.getElementById("picture");
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        canvas.getContext("2d").drawImage(image, 0, 0);
        return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        """
    )
    width, height = picture.get_property("naturalWidth"), picture.get_property("naturalHeight")
    return np.array(values).reshape(height, width, 4)[..., :3]


@pytest.mark.parametrize("way", ["pointer", "keyboard"])
def test_edits_under_a_painted_mask_only(studio, way):
    page, _ = studio
    _draw(page, "a green square", 1)
    before = _pixels(page)
    page.find_element(By.ID, "edit").click()
    page.find_element(By.ID, "mask").click()
    canvas = page.find_element(By.ID, "mask-canvas")
    wait_until(canvas.is_displayed, 10)
    assert "Nothing is painted" in _text(page, "mask-state")
    if way == "pointer":
        page.find_element(By.CSS_SELECTOR, "input[value=circle]").find_element(By.XPATH, "..").click()
        right = int(canvas.rect["width"] * 0.3)
        ActionChains(page).move_to_element_with_offset(canvas, right, 0).click_and_hold().move_by_offset(
            20, 0
        ).release().perform()
    else:
        canvas.send_keys(Keys.ARROW_RIGHT * 6, Keys.SPACE)
    wait_until(lambda: "will be drawn anew" in _text(page, "mask-state"), 10)
    page.find_element(By.ID, "mask-done").click()
    wait_until(lambda: _text(page, "mask") == "Change mask", 10)
    _draw(page, "make it blue", 2)
    assert "under a mask" in _text(page, "settings")
    after = _pixels(page)
    assert after.shape == before.shape
    assert np.array_equal(after[:, :24], before[:, :24])
    assert not np.array_equal(after[:, 40:], before[:, 40:])


def test_variations_are_four_and_each_can_be_looked_at(studio):
    page, _ = studio
    _draw(page, "a red circle", 5)
    page.find_element(By.ID, "vary").click()
    wait_until(lambda: "4 of 4 drawn" in _text(page, "status"), 30)
    tiles = page.find_elements(By.CSS_SELECTOR, "#tiles button")
    assert len(tiles) == 4
    tiles[2].click()
    assert page.find_element(By.ID, "picture").is_displayed()
    assert len({b.get_attribute("aria-label") for b in page.find_elements(By.CSS_SELECTOR, "#history button")}) == 5
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.ALT, Keys.ARROW_RIGHT)
    current = page.find_elements(By.CSS_SELECTOR, "#history button[aria-current=true]")
    assert len(current) == 1


def test_a_transparent_picture_lies_on_a_checkerboard(studio):
    page, _ = studio
    page.find_element(By.ID, "transparent").click()
    _draw(page, "a star", 2)
    picture = page.find_element(By.ID, "picture")
    assert "clear" in picture.get_attribute("class")
    assert "conic-gradient" in picture.value_of_css_property("background-image")


@pytest.mark.slow  # a figure of an idle machine
def test_the_first_look_comes_within_two_seconds(page):
    with running(Pipeline.from_pretrained("micro")) as live:
        page.get(live.url)
        wait_until(lambda: "micro" in _text(page, "model"), 30)
        wait_until(live.engine.ready.is_set, 60)
        page.execute_script(
            """
            window.began = null; window.look = null;
            document.getElementById("draw").addEventListener("click", () => { window.began = performance.now(); });
            new MutationObserver(() => {
              const image = document.getElementById("picture");
              if (!window.look && !image.hidden && image.naturalWidth) window.look = performance.now();
            }).observe(document.getElementById("figure"), { subtree: true, childList: true, attributes: true });
            """
        )
        _draw(page, "a cat on a mint background", 7)
        assert page.execute_script("return window.look - window.began") < 2000


def test_a_dropped_picture_restores_its_settings(studio):
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
    wait_until(lambda: _text(page, "status").startswith("Settings restored"), 10)
    assert page.find_element(By.ID, "prompt").get_property("value") == "a cat"
    assert page.find_element(By.ID, "seed").get_property("value") == "9"


def test_adapters_have_a_box_that_draws_tells_and_restores(page, tmp_path, tiny_folder):
    pipe = Pipeline.from_pretrained(tiny_folder)
    add_lora(pipe.transformer, LoraConfig(rank=2))
    with torch.no_grad():
        for factor in lora_parameters(pipe.transformer).values():
            factor.normal_(std=0.15, generator=torch.Generator().manual_seed(0))
    save_lora(tmp_path / "soft-light.safetensors", pipe.transformer)
    pipe.unload_lora()
    pipe.load_lora(tmp_path / "soft-light.safetensors", 0.85)
    pipe.load_lora(tmp_path / "soft-light.safetensors", 0, name="snow")
    with running(pipe) as live:
        page.get(live.url)
        wait_until(lambda: "tiny" in _text(page, "model"), 30)
        box = page.find_element(By.ID, "loras")
        assert box.text.split("\n") == ["Adapters", "soft-light 0.85", "snow off"]
        _draw(page, "a cat", 3)
        assert "soft-light 0.85" in _text(page, "settings")
        first = page.find_element(By.ID, "picture").get_attribute("src")
        slider = page.find_element(By.CSS_SELECTOR, "#loras input")
        slider.send_keys(Keys.HOME)
        assert box.text.split("\n")[1] == "soft-light -1"
        _draw(page, "a cat", 3)
        assert page.find_element(By.ID, "picture").get_attribute("src") != first
        assert "soft-light -1" in _text(page, "settings")
        page.find_element(By.CSS_SELECTOR, "#history li:nth-child(2) button").click()
        page.find_element(By.ID, "reuse").click()
        assert box.text.split("\n")[1] == "soft-light 0.85"


def test_a_server_without_adapters_shows_no_box(studio):
    assert not studio[0].find_element(By.ID, "loras").is_displayed()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_dark(studio, scheme):
    page, _ = studio
    wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    try:
        for selector, least in (("h1", 7), (".quiet", 4.5), ("#draw", 4.5), ("textarea", 7)):
            assert page.execute_script(CONTRAST, selector) >= least, selector
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRAST = """
const paint = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const luminance = (colour) => {
  paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
let element = document.querySelector(arguments[0]);
const ink = luminance(getComputedStyle(element).color);
while (getComputedStyle(element).backgroundColor === "rgba(0, 0, 0, 0)") element = element.parentElement;
const paper = luminance(getComputedStyle(element).backgroundColor);
return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
"""
