"""The report in headless Chromium: offline, readable on a phone, by keyboard and on paper."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed.report import build

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """An installed Chromium; no browser is downloaded."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(compared: Path) -> Path:
    return build(compared)


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """A page on which nothing is asked of the network and nothing fails."""
    context = browser.new_context(**options)
    page = context.new_page()
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on(
        "console",
        lambda message: (
            failed.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.goto(path.as_uri())
    try:
        yield page
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert failed == []
    finally:
        context.close()


def draw_all(page: Any) -> None:
    """Scroll through the page until every chart outside a closed part is drawn."""
    for figure in page.locator("figure").all():
        if figure.is_visible():
            figure.scroll_into_view_if_needed()
            page.wait_for_function(
                "figure => figure.matches('.drawn')", arg=figure.element_handle()
            )


def marks(page: Any, stem: str) -> int:
    """Number of points in a live chart."""
    count: int = page.locator(
        f"figure:has(a[download='{stem}.csv']) .live svg .mark-symbol path"
    ).count()
    return count


@pytest.mark.parametrize("width", [375, 1440])
def test_charts_are_drawn_and_the_page_does_not_scroll_sideways(
    browser: Any, report: Path, width: int
) -> None:
    size = {"width": width, "height": 900}
    with opened(browser, report, viewport=size) as page:
        draw_all(page)
        for part in page.locator("details:not(.beside details)").all():
            part.evaluate("part => part.open = true")
        draw_all(page)
        figures = page.locator("figure")
        assert figures.count() == page.locator("figure.drawn").count() >= 15
        for figure in figures.all():
            box = figure.locator(".live svg").bounding_box()
            assert box is not None
            assert box["width"] > 200
            assert box["height"] > 60
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert not figure.locator(".still").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_a_phone_an_arm_is_a_card_with_its_guarantee_and_trust(
    browser: Any, report: Path
) -> None:
    with opened(browser, report, viewport={"width": 390, "height": 900}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for label in ("Guarantee", "Must be trusted"):
            cells = page.locator(f"#arms .cards:first-of-type td[data-label='{label}']")
            assert cells.count() == 7
            for cell in cells.all():
                box = cell.bounding_box()
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= 390
                shown = "cell => getComputedStyle(cell, '::before').content"
                assert cell.evaluate(shown) == f'"{label}"'
        draw_all(page)
        # No text of a drawing is wider than the drawing.
        cut = page.evaluate(
            """() => [...document.querySelectorAll('.live svg')].flatMap(svg =>
                 [...svg.querySelectorAll('text')].filter(text => text.textContent.trim() &&
                   text.getBoundingClientRect().right > svg.getBoundingClientRect().right + 1)
                   .map(text => text.textContent))"""
        )
        assert cut == []


@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (375, "dark"), (1440, "dark")])
def test_axe_finds_nothing(browser: Any, report: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900}
    with opened(browser, report, viewport=size, color_scheme=scheme) as page:
        draw_all(page)
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        draw_all(page)
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        grounds = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert grounds == ("rgb(246, 247, 249)" if scheme == "light" else "rgb(17, 22, 28)")


def test_the_charts_follow_the_theme_while_they_are_shown(browser: Any, report: Path) -> None:
    with opened(browser, report, color_scheme="light") as page:
        draw_all(page)
        text = page.locator("figure .live svg text").first
        page.emulate_media(color_scheme="light")
        light = text.evaluate("text => getComputedStyle(text).fill")
        page.emulate_media(color_scheme="dark")
        dark = text.evaluate("text => getComputedStyle(text).fill")
        assert light == "rgb(27, 35, 44)"
        assert dark == "rgb(231, 236, 241)"


def test_an_arm_is_toggled_everywhere_by_mouse_and_by_keyboard(browser: Any, report: Path) -> None:
    with opened(browser, report, viewport={"width": 1440, "height": 900}) as page:
        draw_all(page)
        stem = "groups-sex-auroc"
        figure = page.locator(f"figure:has(a[download='{stem}.csv'])")
        before, height = marks(page, stem), figure.locator(".live svg").bounding_box()["height"]
        page.locator("#groups label", has_text="dp-sgd").click()
        page.wait_for_timeout(300)
        assert before == 14
        assert marks(page, stem) == 12
        assert figure.locator(".live svg").bounding_box()["height"] == pytest.approx(height - 36)
        boxes = page.locator("input[data-arm='dp-sgd']")
        assert boxes.count() == 5
        assert not any(box.is_checked() for box in boxes.all())
        assert page.locator("figure[data-only='dp-sgd']").is_hidden()
        assert marks(page, "epsilon-patient") == 0
        boxes.last.focus()
        page.keyboard.press("Space")
        page.wait_for_timeout(300)
        assert marks(page, stem) == 14
        assert page.locator("figure[data-only='dp-sgd']").is_visible()
        assert figure.locator(".live svg").bounding_box()["height"] == pytest.approx(height)


def test_the_keyboard_reaches_every_control(browser: Any, report: Path) -> None:
    with opened(browser, report) as page:
        draw_all(page)
        page.evaluate("scrollTo(0, 0)")
        seen = []
        for _ in range(400):
            page.keyboard.press("Tab")
            name = page.evaluate(
                """() => {
                  const at = document.activeElement;
                  if (at === document.body) return null;
                  return at.dataset.arm ? 'arm' : at.tagName === 'A' && at.download ? 'csv'
                    : at.tagName === 'SUMMARY' ? 'summary' : at.className || at.tagName;
                }"""
            )
            if name is None:
                break
            seen.append(name)
        assert seen[0] == "skip"
        wanted = {
            "arm": "input[data-arm]",
            "csv": "a[download]",
            "summary": "summary",
        }
        for name, selector in wanted.items():
            visible = [one for one in page.locator(selector).all() if one.is_visible()]
            assert seen.count(name) == len(visible) > 3
        page.locator(".skip").press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"


def test_values_are_shown_beside_the_pointer(browser: Any, report: Path) -> None:
    with opened(browser, report, viewport={"width": 1440, "height": 900}) as page:
        draw_all(page)
        figure = page.locator("figure:has(a[download='epsilon-patient.csv'])")
        figure.scroll_into_view_if_needed()
        figure.locator(".live svg .mark-symbol path").first.hover()
        tip = page.locator("#vg-tooltip-element")
        sync_api.expect(tip).to_be_visible()
        assert "dp-sgd" in tip.inner_text()
        assert "8 per patient" in tip.inner_text()
        point = figure.locator(".live svg .mark-symbol path").first.bounding_box()
        box = tip.bounding_box()
        assert abs(box["x"] - point["x"]) < 200
        assert abs(box["y"] - point["y"]) < 100


def test_without_javascript_the_static_drawings_stand(browser: Any, report: Path) -> None:
    with opened(
        browser, report, java_script_enabled=False, viewport={"width": 375, "height": 800}
    ) as page:
        for figure in page.locator("#epsilon figure, #groups > .charts figure").all():
            assert figure.locator(".still svg").is_visible()
            assert figure.locator(".still svg").bounding_box()["width"] > 200
        assert page.locator("input[data-arm]").first.is_hidden()
        assert page.locator("#epsilon .legend label").first.is_visible()  # still a legend


def test_paper_gets_the_static_drawings_of_every_arm(browser: Any, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        draw_all(page)
        page.locator("#groups label", has_text="dp-sgd").click()
        page.emulate_media(media="print")
        for figure in page.locator("#epsilon figure, #learning figure").all():
            assert figure.locator(".still svg").is_visible()
            assert not figure.locator(".live").is_visible()
        text = page.locator("figure .still svg text").first
        assert text.evaluate("text => getComputedStyle(text).fill") == "rgb(27, 35, 44)"
        assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_a_name_from_a_file_cannot_do_anything(
    browser: Any, make_runs: ModuleType, tmp_path: Path
) -> None:
    name = "<img src=http:x onerror=alert(1)> \"'&"
    make_runs.ARMS[name] = make_runs.ARMS["dp-sgd"]
    try:
        make_runs.write_arm(tmp_path, "none", 0)
        metrics = make_runs.enrich(make_runs.evaluate(make_runs.table(1.5, 0)))
        for row in metrics["groups"]["sex"]:
            row["group"] = f"{row['group']} </script>{name}"
        make_runs.write_arm(tmp_path, name, 0, metrics=metrics, trust=name)
        make_runs.write_about(tmp_path, ["none", name], [0], title=f"</title>{name}", notes=[name])
    finally:
        del make_runs.ARMS[name]
    with opened(browser, build(tmp_path), viewport={"width": 375, "height": 800}) as page:
        page.on("dialog", lambda dialog: pytest.fail("a script of the data ran"))
        draw_all(page)
        assert page.locator("h1").inner_text() == f"</title>{name}"
        assert page.locator("img[src^=http]").count() == 0
        assert page.locator("#epsilon input").nth(1).get_attribute("data-arm") == name
        page.locator("#epsilon input").nth(1).uncheck()
        assert page.locator("#learning figure").nth(1).is_hidden()
    assert all(set("<>\"'&/").isdisjoint(path.name) for path in (tmp_path / "figures").iterdir())


def test_an_unfinished_comparison_is_a_page_too(
    browser: Any, make_runs: ModuleType, tmp_path: Path
) -> None:
    make_runs.write_about(tmp_path, ["none"], [0])
    with opened(browser, build(tmp_path)) as page:
        assert page.locator("#incomplete").is_visible()
        assert axe.Axe().run(page).violations_count == 0
