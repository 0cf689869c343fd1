"""Opens reports in a browser and uses them as a person does, by mouse and by keyboard."""

import time

import pytest

from lgrpo_lightning.report import write_report
from tests.report.made_runs import HOSTILE, make_run, tree_record, write_lines

WORKED_EXAMPLE = ["abc■", "abd■", "abd■", "ae■", "fgi■", "fh■"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = [
        make_run(folder / "first", steps=40, trees=6),
        make_run(folder / "second", steps=30, trees=3, seed=1, scaling=False),
    ]
    trees = made[0] / "trees" / "rank-0.jsonl"
    example = tree_record([list(t) for t in WORKED_EXAMPLE], [1, 0, 0, 0, 1, 0], 0, "worked")
    lines = trees.read_text()
    write_lines(trees, [example])
    trees.write_text(trees.read_text() + lines)
    return made


@pytest.fixture(scope="module")
def report(runs):
    return write_report(runs[:1])


@pytest.fixture(scope="module")
def comparison(runs):
    return write_report(runs)


def drawn(page):
    """The picture of each chart, as text; more is drawn in a longer one."""
    return page.evaluate(
        "[...document.querySelectorAll('.chart canvas')].map((canvas) => canvas.toDataURL())"
    )


@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_everything_is_drawn_and_fits(open_page, report, width, colour_scheme):
    page = open_page(report, width, colour_scheme)
    charts = drawn(page)
    assert len(charts) == 9
    assert min(len(picture) for picture in charts) > 5000
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".step").count() == 8
    overflow = "(box) => box.scrollWidth - box.clientWidth"
    assert page.locator(".tree-scroll").evaluate(overflow) == 0
    assert page.locator(".completion").count() > 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if colour_scheme == "light" else "rgb(20, 21, 23)")


def test_several_evaluation_sets_have_a_chart_of_their_own(open_page, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    sets = ("aime24", "math500")
    header = ",".join(f"eval/source/{name}/pass@1" for name in sets)
    (run / "metrics.csv").write_text(f"epoch,step,{header}\n0,9,0.1,0.5\n0,19,0.2,0.7\n")
    page = open_page(write_report([run]))
    chart = page.locator(".chart", has_text="Evaluation sets")
    assert [chart.get_by_text(name).count() for name in sets] == [1, 1]
    chart.locator(".plot").focus()
    page.keyboard.press("End")
    assert chart.locator("[aria-live]").text_content() == "step 20: aime24 0.20, math500 0.70"


def test_a_chart_reads_values_by_keyboard(open_page, report):
    page = open_page(report)
    chart = page.locator(".chart").first
    chart.locator(".plot").focus()
    said = chart.locator("[aria-live]")
    page.keyboard.press("Home")
    assert said.text_content().startswith("step 0: training ")
    page.keyboard.press("ArrowRight")
    assert said.text_content().startswith("step 1: training ")
    page.keyboard.press("End")
    assert said.text_content().startswith("step 40: training ")
    assert chart.locator(".tooltip").is_visible()
    page.keyboard.press("Escape")
    assert chart.locator(".tooltip").is_hidden()


def test_all_charts_zoom_together(open_page, report):
    page = open_page(report)
    first, last = page.get_by_label("first step"), page.get_by_label("last step")
    before = drawn(page)
    area = page.locator(".plot .u-over").first.bounding_box()
    middle = area["y"] + area["height"] / 2
    page.mouse.move(area["x"] + area["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.75, middle, steps=4)
    page.mouse.up()
    assert (first.input_value(), last.input_value()) == ("10", "30")
    assert all(a != b for a, b in zip(before[:3], drawn(page)[:3], strict=True))
    page.mouse.dblclick(area["x"] + area["width"] / 2, middle)
    assert (first.input_value(), last.input_value()) == ("0", "40")
    first.fill("20")
    first.press("Enter")
    assert page.get_by_role("button", name="All steps").is_enabled()
    page.get_by_role("button", name="All steps").press("Enter")
    assert first.input_value() == "0"


def test_smoothing_and_the_other_metrics(open_page, report):
    page = open_page(report)
    before = drawn(page)
    page.get_by_label("Smoothing").select_option("20")
    assert drawn(page) != before
    page.get_by_label("Any other metric").select_option("kl/ref")
    assert "kl/ref over optimizer steps" in page.locator(".plot").last.get_attribute("aria-label")


def test_a_tree_shows_what_lambda_changes(open_page, report):
    page = open_page(report)
    assert page.locator(".tree [aria-selected=true] .text").text_content() == "d■"
    page.locator(".step").first.click()
    detail = page.locator(".step-detail")
    assert "token 1, shared by 4 of 6 completions" in detail.text_content()
    assert detail.locator(".weight-row").all_text_contents() == [
        "GRPO: |λ|·Â−0.65",
        "λ-GRPO: Â−0.16",
    ]
    values = page.locator(".step .value").all_text_contents()
    assert values[0] == "−0.16 4×"
    page.get_by_label("GRPO: |λ|·Â", exact=True).check()
    assert page.locator(".step .value").all_text_contents()[0] == "−0.65 4×"
    rows = page.locator(".changes tbody tr").all_text_contents()
    assert rows == ["d■3–420−1.29−0.65", "a140.25−0.65−0.16", "f120.50+0.65+0.32"]


def test_a_tree_is_walked_by_keyboard(open_page, report):
    page = open_page(report)
    page.locator(".step").first.click()
    chosen = page.locator(".tree [aria-selected=true] .text")
    walk = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "End", "Home"):
        page.keyboard.press(key)
        walk.append(chosen.text_content())
        assert (
            page.evaluate("document.activeElement.querySelector('.text').textContent") == walk[-1]
        )
    assert walk == ["b", "c■", "d■", "b", "h■", "a"]
    assert page.locator(".step[tabindex='0']").count() == 1


def test_pointing_at_a_step_shows_its_tokens(open_page, report):
    page = open_page(report)
    page.locator(".step").nth(6).hover()
    tokens = page.locator(".step-detail .token")
    assert tokens.all_text_contents() == ["g", "i", "■"]
    assert page.locator(".step-detail .before").all_text_contents() == ["f"]
    page.mouse.move(5, 5)
    assert tokens.all_text_contents() == ["d", "■"]


def test_trees_are_picked_by_step_and_by_paging(open_page, report):
    page = open_page(report)
    section = page.locator("#trees")
    assert section.locator(".prompt").text_content() == "worked"
    section.get_by_label("Optimizer step").select_option("40")
    assert section.locator(".prompt").text_content().startswith("What is 40 + 1?")
    assert section.get_by_role("button", name="Next tree").is_disabled()
    section.get_by_role("button", name="Previous tree").press("Enter")
    assert section.get_by_label("Optimizer step").input_value() == "32"
    steps = section.locator(".step").count()
    assert steps == section.locator("[role=treeitem]").count() > 1


def test_completions_are_paged_by_keyboard(open_page, report):
    page = open_page(report)
    section = page.locator("#completions")
    prompt = section.locator(".prompt")
    assert prompt.text_content() == "What is 1 + 0? "
    following = section.get_by_role("button", name="Next prompt")
    following.focus()
    page.keyboard.press("Enter")
    assert prompt.text_content() == "What is 1 + 1? "
    page.keyboard.press("Enter")
    assert prompt.text_content() == "What is 2 + 0? "
    assert section.get_by_label("Optimizer step").input_value() == "2"
    assert page.evaluate("document.activeElement.textContent") == "Next ›"


def test_another_evaluation_shows_the_same_problem(open_page, report):
    page = open_page(report)
    section = page.locator("#completions")
    section.get_by_label("From").select_option("validation")
    section.get_by_label("Prompt", exact=True).select_option(label="4: problem 3")
    section.get_by_label("Optimizer step").select_option("40")
    assert section.locator(".prompt").text_content() == "problem 3 "
    assert "cut off" in section.text_content()


def test_completions_can_be_ordered_by_reward(open_page, report):
    page = open_page(report)
    section = page.locator("#completions")
    for order, first in (("best", "reward 1"), ("worst", "reward 0")):
        section.get_by_label("Order").select_option(order)
        assert section.locator(".completion-facts").first.text_content().startswith(first)


def test_several_runs_are_overlaid_and_can_be_hidden(open_page, comparison):
    page = open_page(comparison)
    assert page.locator("h1").text_content().startswith("2 runs of runs")
    label = page.locator(".plot").first.get_attribute("aria-label")
    assert "first training" in label
    assert "second evaluation" in label
    page.get_by_label("first", exact=True).uncheck()
    assert "first training" not in page.locator(".plot").first.get_attribute("aria-label")
    assert "model.loss.process_set_scalingtruefalse" in page.locator(".differences").text_content()
    page.locator("#trees").get_by_label("Run").select_option("1")
    assert "trained with plain GRPO" in page.locator("#trees .summary").text_content()


def test_every_control_has_a_name(open_page, comparison):
    page = open_page(comparison)
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, select, input')].filter((control) =>"
        " !control.getAttribute('aria-label') && !control.labels?.[0]?.textContent.trim() &&"
        " !control.textContent.trim()).map((control) => control.outerHTML)"
    )
    assert unnamed == []


def test_hostile_text_stays_text(open_page, tmp_path):
    run = make_run(tmp_path / "run", steps=4, trees=3, text=HOSTILE)
    page = open_page(write_report([run]))
    page.locator("#completions").get_by_label("From").select_option("validation")
    assert "<img src=x onerror=" in page.locator(".completion pre").first.text_content()
    assert page.evaluate("window.injected") is None
    assert page.locator("img").count() == 0


def test_an_almost_empty_run_says_what_is_missing(open_page, tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train/reward\n0,0,1\n")
    page = open_page(write_report([tmp_path]))
    notes = page.locator(".notes li").all_text_contents()
    assert len(notes) == 4
    assert len(drawn(page)[0]) > 2000
    for section in ("trees", "completions"):
        assert "recorded" in page.locator(f"#{section} .empty").text_content()


def test_a_long_run_is_small_and_opens_fast(open_page, tmp_path):
    run = make_run(tmp_path / "run", steps=2000, trees=200, tokens=200, groups_per_step=1)
    path = write_report([run])
    assert path.stat().st_size < 15e6
    begin = time.perf_counter()
    page = open_page(path)
    page.wait_for_selector(".completion")
    assert time.perf_counter() - begin < 5
    assert "of 200" in page.locator("#trees").text_content()
