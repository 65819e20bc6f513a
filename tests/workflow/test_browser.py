"""The report in a real browser, opened from the file system as a reader would: headless Chromium, no server."""

import shutil
import time

import pytest
import synthetic_run
from antibody_sae.report import build as report
from antibody_sae.report import summary

pytestmark = pytest.mark.slow
SIZES = {"wide": (1400, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    running.set_script_timeout(30)
    yield running
    running.quit()


class Page:
    """A page of the report, as a reader with a mouse and a keyboard sees it."""

    def __init__(self, browser, path, size="wide", scheme="light"):
        self.browser = browser
        width, height = SIZES[size]
        settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "narrow"}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.get("about:blank")
        browser.get(path.as_uri())

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.until(lambda: self.all(selector), f"{selector} appears")[0]

    def until(self, condition, what, seconds=20):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}: not in {seconds} s; console: {self.console()}"
            time.sleep(0.05)
        return found

    def text(self, selector):
        """At one moment: elements may be replaced while a list of them is gone through."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)"
        return self.browser.execute_script(script, selector)

    def console(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def tab(self, name):
        self.one(f"#tab-{name}").click()
        self.until(lambda: self.one(f"#{name}").is_displayed(), f"tab {name} opens")

    def key(self, selector, key):
        self.one(selector).send_keys(key)


@pytest.fixture
def quick(quick_run):
    return quick_run[0].folder / "results" / "quick" / "report" / "index.html"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_draws_its_charts_within_the_screen(browser, quick, tmp_path, size, scheme):
    page = Page(browser, quick, size, scheme)
    for tab in ("overview", "training", "dictionaries", "concepts", "latents", "steering", "levers"):
        page.tab(tab)
        for figure in page.all(f"#{tab} figure.chart:not([hidden])"):
            browser.execute_script("arguments[0].scrollIntoView()", figure)
            page.until(lambda f=figure: f.find_elements("css selector", "svg"), f"a chart of {tab} is drawn")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= SIZES[size][0], f"{tab} is {width} pixels wide"
        browser.save_screenshot(str(tmp_path / f"{tab}.png"))
        assert (tmp_path / f"{tab}.png").stat().st_size > 10_000
    assert page.console() == []


def test_a_latent_is_found_opened_and_left(browser, quick):
    page = Page(browser, quick)
    page.tab("latents")
    page.until(lambda: page.text("#rows tbody tr[data-latent]"), "the list fills")
    page.one("#search").send_keys("17")
    page.until(lambda: page.text("#rows tbody tr[data-latent] a")[:1] == ["17"], "the exact index comes first")
    page.one("#rows tbody tr[data-latent='17']").click()
    page.until(lambda: "latent 17" in page.text("#latent")[0], "the latent opens")
    page.until(lambda: len(page.all("#latent .plot svg")) >= 3, "its charts are drawn")
    assert page.all("#latent .chain .cdr"), "CDRs are marked in its antibodies"
    assert page.all("#latent .chain b.peak"), "and the strongest residue"
    assert "#latents/" in browser.current_url
    sae, latent = page.text("#latent .near a")[0].split()[:2]
    page.one("#latent .near a").click()
    page.until(lambda: page.text("#latent h2")[0].startswith(f"{sae}: latent {latent}"), "the nearest latent opens")
    assert page.console() == []


@pytest.mark.parametrize("size", SIZES)
def test_the_tab_opens_with_its_first_latent(browser, quick, size):
    page = Page(browser, quick, size)
    page.tab("latents")
    page.until(lambda: page.text("#rows tbody tr[data-latent]"), "the list fills")
    assert page.one("#rows").is_displayed(), "the list is not covered where there is room for one only"
    if size == "wide":
        row = page.one("#rows tbody tr[data-latent]").get_attribute("data-latent")
        page.until(lambda: page.text("#latent h2")[:1] and f"latent {row}" in page.text("#latent h2")[0], "it opens")
        other = page.all("#which option")[1].get_attribute("value")
        browser.execute_script(
            "const w = document.querySelector('#which'); w.value = arguments[0]; w.dispatchEvent(new Event('change'))",
            other,
        )
        page.until(lambda: "Ordered" in page.text("#latent h2")[0], "the other SAE's first latent opens")
    assert page.console() == []


def test_an_address_opens_a_latent(browser, quick):
    Page(browser, quick)
    browser.get("about:blank")
    browser.get(f"{quick.as_uri()}#latents/layer2-ordered-seed0/3")
    end = time.monotonic() + 20
    while "latent 3" not in browser.find_element("id", "latent").text:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_list_sorts_by_each_column(browser, quick):
    page = Page(browser, quick)
    page.tab("latents")
    page.until(lambda: page.text("#rows tbody tr[data-latent]"), "the list fills")
    for column, name in ((1, "latent"), (3, "F1"), (4, "active")):
        button = f"#rows thead th:nth-child({column}) button"
        assert page.one(button).text == name
        page.one(button).click()
        for _ in range(2):
            way = page.one(f"#rows thead th:nth-child({column})").get_attribute("aria-sort")
            values = [
                float(text.rstrip("%"))
                for text in page.text(f"#rows tbody tr[data-latent] td:nth-child({column})")
                if text
            ]
            assert len(values) > 5
            assert values == sorted(values, reverse=way == "descending")
            page.one(button).click()


def test_a_table_sorts_by_number_and_by_text(browser, quick):
    page = Page(browser, quick)
    page.tab("concepts")
    browser.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    columns = page.text("#concepts details table thead th")
    rows = "#concepts details table tbody tr"
    at = columns.index("F1") + 1
    page.one(f"#concepts details table thead th:nth-child({at}) button").click()
    shown = [float(text) for text in page.text(f"{rows} > :nth-child({at})") if text not in ("", "–")]
    table = len(page.all("#concepts details:first-of-type table tbody tr"))
    assert shown[: table // 2] == sorted(shown[: table // 2], reverse=True)
    page.one("#concepts details table thead th:nth-child(1) button").click()
    names = page.text(f"{rows} > :nth-child(1)")[: table // 2]
    assert names[0] <= names[-1]


def test_the_keyboard_is_enough(browser, quick):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, quick)
    page.key("#tab-overview", Keys.ARROW_RIGHT)
    assert page.one("#training").is_displayed()
    page.key("#tab-training", Keys.END)
    assert page.one("#levers").is_displayed()
    page.key("#tab-levers", Keys.ARROW_LEFT)
    page.key("#tab-steering", Keys.ARROW_LEFT)
    page.until(lambda: page.text("#rows tbody tr[data-latent]"), "the list fills")
    page.key("#search", "1" + Keys.ENTER)
    page.until(lambda: "latent 1" in page.text("#latent")[0], "Enter opens the first latent found")
    first = page.text("#latent h2")[0]
    page.key("#rows", Keys.ARROW_DOWN)
    page.until(lambda: page.text("#latent h2")[0] != first, "the arrow opens the next")


def test_a_choice_changes_the_charts(browser, quick):
    from selenium.webdriver.support.ui import Select

    page = Page(browser, quick)
    page.tab("concepts")
    choice = Select(page.one("#concepts select[data-pick='family']"))
    before = page.text("#concepts figure.chart:not([hidden]) strong")
    choice.select_by_index(1)
    after = page.text("#concepts figure.chart:not([hidden]) strong")
    assert before[0] != after[0]
    assert len(before) == len(after)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A made-up run of 20,000 latents with hostile names."""
    config = synthetic_run.configuration(latents=20_000, saes={"train": {"ordered": {"architecture": "ordered"}}})
    folder = tmp_path_factory.mktemp("large")
    run = synthetic_run.make(folder, config)
    page = folder / "report" / "index.html"
    report.build(run, summary.summary(run), page, folder / "report" / "figures")
    return page


def test_20000_latents_open_in_under_three_seconds(browser, large):
    start = time.monotonic()
    page = Page(browser, large)
    page.tab("latents")
    page.until(lambda: page.text("#rows tbody tr[data-latent]"), "the list fills")
    seconds = time.monotonic() - start
    assert page.one("#count").text == "20,000 of 20,000 latents"
    assert len(page.all("#rows tbody tr")) < 100, "only the rows in view are made"
    assert seconds < 3
    browser.execute_script("const box = document.querySelector('#rows'); box.scrollTop = box.scrollHeight")
    page.until(
        lambda: page.text("#rows tbody tr[data-latent='19999']") or len(page.text("#rows tbody tr[data-latent]")) > 5,
        "it scrolls",
    )
    assert large.stat().st_size < 20e6


def test_hostile_names_do_nothing(browser, large):
    page = Page(browser, large)
    page.tab("latents")
    page.one("#search").send_keys("donor")
    page.until(
        lambda: any(synthetic_run.HOSTILE in text for text in page.text("#rows tbody tr[data-latent]")),
        "the name is text",
    )
    page.one("#rows tbody tr[data-latent]").click()
    page.until(lambda: page.all("#latent h2"), "the latent opens")
    page.one("#search").clear()
    page.one("#search").send_keys("1")
    page.one("#rows tbody tr[data-latent='1']").click()
    page.until(lambda: synthetic_run.HOSTILE in page.text("#latent")[0], "the antibody's id is text")
    assert browser.title == "synthetic · antibody-sae"
    assert page.console() == []
