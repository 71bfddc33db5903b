"""The study's page in a real browser: desktop and phone, by mouse, keyboard and on paper."""

import shutil
from pathlib import Path

import pytest

from hmc_fast.evaluation.report.study_page import write_study_report
from hmc_fast.evaluation.study_figure_set import study_figures_of
from hmc_fast.evaluation.study_tables import all_tables
from report_example import DASH
from tiny_study import tiny_study

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAPER = {"width": 688, "height": 1000}  # A4 within its margins, in CSS pixels
OVERFLOWING = """[...document.querySelectorAll("table")]
    .filter(table => table.offsetWidth > table.parentElement.clientWidth).map(table => table.id)"""
SPILLING = """[...document.querySelectorAll("th, td")]
    .filter(cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent)"""
LOWEST_CONTRAST = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => channels(color).slice(0, 3)
    .map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    const own = getComputedStyle(element).backgroundColor;
    return channels(own)[3] === 0 ? ground(element.parentElement) : own;
  };
  const own = element => [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const written = [...document.body.querySelectorAll("*")]
    .filter(element => element.checkVisibility() && own(element));
  return Math.min(...written.map(element => {
    const [a, b] = [getComputedStyle(element).color, ground(element)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    study = tiny_study(7)
    path = tmp_path_factory.mktemp("browser") / "report.html"
    found = ["hmc leads by 0.1 (0.05 to 0.15)."]
    write_study_report(path, study, all_tables(study), study_figures_of(study), found)
    return path.as_uri()


@pytest.fixture
def open_page(browser, address):
    """A function that opens the page and returns it with what its console said."""
    contexts = []

    def opened(viewport=DESKTOP, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page, messages = contexts[-1].new_page(), []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("requestfailed", lambda request: messages.append(request.url))
        page.goto(address)
        return page, messages

    yield opened
    for context in contexts:
        context.close()


def column(page, table, number):
    return page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()


def button(page, table, number):
    return page.locator(f"#{table} thead th:nth-child({number}) button")


def ordered(page, table, number):
    return page.locator(f"#{table} thead th:nth-child({number})").get_attribute("aria-sort")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_whole(open_page, viewport, scheme):
    page, messages = open_page(viewport, color_scheme=scheme)
    assert messages == []
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 8
    assert min(widths) > 200
    tables = page.locator("table")
    assert tables.count() > 30
    assert all(tables.nth(place).is_visible() for place in range(tables.count()))
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert page.evaluate(SPILLING) == []
    assert page.evaluate(LOWEST_CONTRAST) >= 4.5


def test_a_click_sorts_up_down_and_back(open_page):
    page, _ = open_page()
    written = column(page, "headline", 5)
    heads = column(page, "headline", 1)
    assert written != sorted(written)  # or the test shows nothing
    for order, expected in (
        ("ascending", sorted(written)),
        ("descending", sorted(written, reverse=True)),
        (None, written),
    ):
        button(page, "headline", 5).click()
        assert column(page, "headline", 5) == expected
        assert ordered(page, "headline", 5) == order
    assert column(page, "headline", 1) == heads
    assert page.locator("#headline tfoot th").inner_text() == "always “normal”"


def test_one_column_at_a_time_is_marked(open_page):
    page, _ = open_page()
    for number in (5, 1):
        button(page, "headline", number).click()
    assert ordered(page, "headline", 5) is None
    assert column(page, "headline", 1) == sorted(column(page, "headline", 1))
    assert page.locator("#headline [aria-sort]").count() == 1


def test_whole_rows_move_and_equal_ones_keep_their_order(open_page):
    page, _ = open_page()
    rows = list(zip(column(page, "table4_macro", 2), column(page, "table4_macro", 1), strict=True))
    button(page, "table4_macro", 2).press("Enter")
    moved = list(zip(column(page, "table4_macro", 2), column(page, "table4_macro", 1), strict=True))
    assert moved == sorted(rows, key=lambda row: row[0].lower())
    assert moved != rows


@pytest.mark.parametrize("clicks", [1, 2], ids=["up", "down"])
@pytest.mark.parametrize(
    ("table", "number", "key"), [("table2_complexity", 5, float), ("pairs_by_patients", 8, str)]
)
def test_what_is_missing_comes_last(open_page, table, number, key, clicks):
    page, _ = open_page()
    missing = column(page, table, number).count(DASH)
    for _ in range(clicks):
        button(page, table, number).click()
    found = column(page, table, number)
    assert missing > 0
    assert set(found[-missing:]) == {DASH}
    there = [key(value) for value in found[:-missing]]
    assert there == sorted(there, reverse=clicks == 2)
    assert len(set(there)) > 1


def test_large_numbers_are_sorted_as_numbers(open_page):
    page, _ = open_page()
    page.evaluate("""() => { const cells = document.querySelectorAll("#headline tbody td");
        cells[0].dataset.value = "1e-7"; cells[9].dataset.value = "1000"; }""")
    button(page, "headline", 2).click()
    names = column(page, "headline", 1)
    assert (names[0], names[-1]) == ("hmc", "hierarchical")


def test_the_keyboard_reaches_skip_link_table_and_button(open_page):
    page, _ = open_page()
    focused = "document.activeElement"
    assert page.locator(".skip").bounding_box()["y"] < 0
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.getAttribute('aria-labelledby')") == "headline-caption"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.tagName") == "BUTTON"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert ordered(page, "headline", 1) == "ascending"
    page.keyboard.press("Space")
    assert ordered(page, "headline", 1) == "descending"


def test_a_wide_table_scrolls_in_its_own_box(open_page):
    page, _ = open_page(PHONE)
    box = page.locator(".scroll", has=page.locator("#table3_accuracy"))
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())
    box.evaluate("box => { box.scrollLeft = 300; }")
    assert page.locator("#table3_accuracy tbody th").first.bounding_box()["x"] >= 0  # in sight


def test_on_paper_no_table_is_cut_and_no_button_is_left(open_page):
    page, _ = open_page(PAPER)
    assert page.evaluate(OVERFLOWING)  # on a screen this narrow, some are
    page.emulate_media(media="print")
    assert page.evaluate(OVERFLOWING) == []
    after = "getComputedStyle(document.querySelector('thead button'), '::after').content"
    assert page.evaluate(after) == "none"
    assert not page.locator("nav").is_visible()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_without_the_script_the_page_is_all_there(open_page):
    page, messages = open_page(java_script_enabled=False)
    assert messages == []
    assert page.locator("button").count() == 0
    assert page.locator("#headline tbody tr").count() == 7
    assert page.locator("#headline thead th").first.inner_text() == "model"
