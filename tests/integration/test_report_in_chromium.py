"""The report as a reader sees it: in a real browser, light, dark, and on a phone."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from sbp_jax.report import write_report

_spec = importlib.util.spec_from_file_location(
    "realistic_results", Path(__file__).parents[1] / "realistic_results.py"
)
assert _spec and _spec.loader
realistic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(realistic)

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWS = {"light": ("light", 1100), "dark": ("dark", 1100), "phone": ("light", 360),
         "dark phone": ("dark", 360)}  # fmt: skip

# Every text that is seen, with its colour and that of what lies below it. In an SVG that is the
# shape at the text's middle, in HTML the nearest background.
CONTRASTS = """
() => {
  const rgba = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const luminance = ([r, g, b]) => {
    const linear = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const below = (element) => {
    if (element instanceof SVGElement) {
      const box = element.getBoundingClientRect();
      const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
      for (const shape of stack.filter((e) => e.matches('rect:not(.hover), circle:not(.hover)'))) {
        return rgba(getComputedStyle(shape).fill);
      }
    }
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    throw 'no background';
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || e.tagName === 'title' || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const svg = e instanceof SVGElement;
    const [a, b] = [rgba(svg ? style.fill : style.color), below(e)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push({text: e.textContent.slice(0, 40), ratio});
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, "no Chromium: `make test` installs Debian's; or apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), realistic.results())


@pytest.fixture(params=VIEWS)
def view(request, browser, report):
    """The page, and what it asked for or complained of."""
    scheme, width = VIEWS[request.param]
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri(), wait_until="load")
    yield page, asked, said
    context.close()


def fill_window(page):
    """A window as high as the page: elementsFromPoint sees the window alone."""
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})


def test_it_asks_for_nothing_but_itself_and_complains_of_nothing(view, report):
    page, asked, said = view
    assert asked == [report.as_uri()] and said == []
    assert page.title() == "Synthetic Bootstrapped Pretraining on the toy world"
    assert page.locator("h1").is_visible() and page.locator(".big").inner_text() == "66%"


def test_it_never_scrolls_sideways(view):
    page, _, _ = view
    for detail in page.locator("summary").all():
        detail.click()
    sizes = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] <= sizes[1]
    right = page.evaluate(
        "() => Math.max(...[...document.querySelectorAll('main *')].filter((e) => "
        "!e.closest('.scroll, pre, svg')).map((e) => e.getBoundingClientRect().right))"
    )
    assert right <= sizes[1]


def test_every_chart_is_seen_once_and_its_texts_lie_inside_it(view):
    page, _, _ = view
    charts = page.locator("figure.chart")
    assert charts.count() == 11
    for chart in charts.all():
        boxes = [s.bounding_box() for s in chart.locator("> svg").all() if s.is_visible()]
        assert len(boxes) == 1
        assert boxes[0]["width"] > 250 and boxes[0]["height"] > 60
        assert chart.locator("> svg:visible").get_attribute("aria-label")
    outside = page.evaluate(
        """() => [...document.querySelectorAll('figure > svg')].flatMap((svg) => {
          const box = svg.getBoundingClientRect();
          return [...svg.querySelectorAll('text')].filter((text) => {
            const t = text.getBoundingClientRect();
            return t.left < box.left - 1 || t.right > box.right + 1
              || t.top < box.top - 1 || t.bottom > box.bottom + 1;
          }).map((text) => text.textContent);
        })"""
    )
    assert outside == []


def test_labels_do_not_overlap(view):
    page, _, _ = view
    overlapping = page.evaluate(
        """() => [...document.querySelectorAll('figure > svg')].flatMap((svg) => {
          const texts = [...svg.querySelectorAll('text')].map(
            (t) => [t.textContent, t.getBoundingClientRect()]).filter(([, b]) => b.width);
          return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([, q]) =>
            p.left < q.right - 1 && q.left < p.right - 1
            && p.top < q.bottom - 3 && q.top < p.bottom - 3).map(([b]) => `${a} / ${b}`));
        })"""
    )
    assert overlapping == []


def test_texts_stand_out_from_what_is_below_them(view):
    page, _, _ = view
    for detail in page.locator("summary").all():
        detail.click()
    fill_window(page)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 200
    assert [text for text in found if text["ratio"] < 4.5] == []


def test_the_config_opens(view):
    page, _, _ = view
    config = page.locator("pre", has_text='"num_layers": 4')
    assert not config.is_visible()
    page.get_by_text("Resolved config").click()
    assert config.is_visible()


def test_light_and_dark_are_what_they_are_called(view):
    page, _, _ = view
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(21, 23, 26)" if dark else "rgb(253, 253, 251)")
