"""The quizzes: their form, the numbers in them, and their working in a browser."""

import itertools
import re
from collections import Counter

import pytest
import quizzes
import torch
from browser import ROOT, barriers, needs_axe, show
from quiz_truths import TRUTHS
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PAGES = {page.stem: quizzes.read(page) for page in sorted(ROOT.glob("book/*.md"))}
QUIZZES = {page: quiz for page, quiz in PAGES.items() if quiz}
QUESTIONS = {name: asked for quiz in QUIZZES.values() for name, asked in quiz.items()}
NUMBER = re.compile(r"(−?\d+(?:\.(\d+))?|∞)(?: %)?")
"""Plain text and no formula: the name of a button, which screen readers say."""


def value(answer):
    """Return the number that an answer is, and the half of its last digit; None if it is words."""
    found = NUMBER.fullmatch(answer.text)
    if not found:
        return None
    digits = len(found[2] or "")
    return float(found[1].replace("∞", "inf").replace("−", "-")), 0.5 * 10**-digits


def right(answers):
    (place,) = (place for place, answer in enumerate(answers) if answer.right)
    return place


def in_words():
    return [answers for _, answers in QUESTIONS.values() if value(answers[right(answers)]) is None]


@pytest.mark.parametrize("page", QUIZZES)
def test_five_questions_with_a_reason_for_each_answer(page):
    quiz = QUIZZES[page]
    assert len(quiz) == 5
    for asked, answers in quiz.values():
        assert asked.endswith("?")
        assert 3 <= len(answers) <= 4
        assert sum(answer.right for answer in answers) == 1
        assert len({answer.text for answer in answers}) == len(answers)
        for answer in answers:
            assert len(answer.reason) > 10
            assert not re.search(r"\]\(|\{\w+\}`", answer.text), "a link in a button"
            assert re.search(r"\w|∞", re.sub(r"\$.*?\$", "", answer.text)), "no name to say"
    assert sum(name in TRUTHS for name in quiz) >= 3, "three of five have a number to compute"


def test_every_chapter_has_a_quiz():
    assert {page.stem for page in ROOT.glob("book/[0-9][0-9]-*.md")} == set(QUIZZES)


def test_names_are_addresses_and_each_is_used_once():
    assert len(QUESTIONS) == 5 * len(QUIZZES)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in QUESTIONS)
    assert set(TRUTHS) <= set(QUESTIONS)


@pytest.mark.parametrize("name", QUESTIONS)
def test_number_is_the_true_one_and_the_others_are_not(name):
    _, answers = QUESTIONS[name]
    given = value(answers[right(answers)])
    if given is None:
        assert name not in TRUTHS, "a number is computed, and the right answer is words"
        return
    found = torch.as_tensor(TRUTHS[name](), dtype=torch.float64).item()
    number, half_digit = given
    assert abs(number - found) <= 1.01 * half_digit, f"{found} is printed as {number}"
    for answer in answers:
        if not answer.right and value(answer):
            apart = abs(value(answer)[0] - found)
            assert apart > max(1.5 * half_digit, 0.05 * abs(found)), f"{answer.text} is right too"


def test_place_of_the_right_answer_tells_nothing():
    orders = [[right(answers) for _, answers in quiz.values()] for quiz in QUIZZES.values()]
    assert len({tuple(order) for order in orders}) == len(orders)
    for order in orders:
        assert max(Counter(order).values()) <= 2, order
    of_four = [right(answers) for _, answers in QUESTIONS.values() if len(answers) == 4]
    shares = [Counter(of_four)[place] / len(of_four) for place in range(4)]
    assert 0.15 <= min(shares) <= max(shares) <= 0.35, shares
    same = sum(a == b for order in orders for a, b in itertools.pairwise(order))
    assert same <= len(QUESTIONS) / 5, "the right answer stands where it stood before"


def test_length_of_the_right_answer_tells_nothing():
    longest = shortest = 0
    for answers in in_words():
        long, short = (pick(len(a.text) for a in answers if not a.right) for pick in (max, min))
        mine = len(answers[right(answers)].text)
        assert 0.75 * short <= mine <= 1.2 * long, answers[right(answers)].text
        longest += mine > long
        shortest += mine < short
    assert longest <= len(in_words()) / 3, f"{longest} of {len(in_words())}"
    assert shortest <= len(in_words()) / 3


def test_size_of_the_right_number_tells_nothing():
    ranks = Counter()
    for _, answers in QUESTIONS.values():
        numbers = [value(answer) for answer in answers]
        if len(numbers) == 4 and all(numbers):
            ranks[sorted(numbers).index(numbers[right(answers)])] += 1
    total = sum(ranks.values())
    assert all(0.1 <= ranks[rank] / total <= 0.45 for rank in range(4)), ranks


QUIZ = "01-flows"


@pytest.fixture
def quiz(browser, address):
    """Open the page, and return a quiz on it."""
    show(browser, 360, "dark")
    browser.get(f"{address}book/{QUIZ}.html")
    return browser.find_element(By.CSS_SELECTOR, ".quiz")


def said(browser, quiz):
    status = quiz.find_element(By.CSS_SELECTOR, "[role=status]")
    return WebDriverWait(browser, 5).until(lambda b: status.text)


def test_answers_unfold_their_reasons_and_are_counted(browser, quiz):
    first, second, *_ = quiz.find_elements(By.CSS_SELECTOR, ".question")
    (asked, answers), *_ = QUIZZES[QUIZ].values()
    wrong = first.find_element(By.CSS_SELECTOR, "details.wrong")
    assert not wrong.find_element(By.TAG_NAME, "p").is_displayed()
    # with the keys: Tab reaches an answer, Enter and Space open it
    wrong.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert wrong.find_element(By.TAG_NAME, "p").text.startswith("No. ")
    assert said(browser, quiz) == "0 of 1 right at the first try."
    found = first.find_element(By.CSS_SELECTOR, "details.right > summary")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element == found
    outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineWidth", found)
    assert outline == "3px"
    found.send_keys(Keys.SPACE)
    assert first.find_element(By.CSS_SELECTOR, "details.right > p").text.startswith("Right. ")
    # the second try does not count
    browser.execute_script("arguments[0].click()", second.find_element(
        By.CSS_SELECTOR, "details.right > summary"))  # fmt: skip
    WebDriverWait(browser, 5).until(lambda b: said(b, quiz) == "1 of 2 right at the first try.")
    browser.execute_script("arguments[0].click()", quiz.find_element(By.TAG_NAME, "button"))
    assert not quiz.find_elements(By.CSS_SELECTOR, "details[open]")
    assert not quiz.find_element(By.CSS_SELECTOR, "[role=status]").text


@needs_axe
def test_screen_reader_hears_a_group_with_its_question(browser, quiz):
    group = quiz.find_element(By.CSS_SELECTOR, ".question")
    assert group.aria_role == "group"
    assert group.accessible_name.startswith("1. ")
    browser.execute_script("document.querySelectorAll('.quiz details').forEach(d => d.open = true)")
    browser.execute_script("document.querySelectorAll('.katex-html').forEach((e) => e.remove())")
    assert not barriers(browser, quiz)


def test_quiz_works_without_scripts(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{address}book/{QUIZ}.html")
        quiz = browser.find_element(By.CSS_SELECTOR, ".quiz")
        answer = quiz.find_element(By.CSS_SELECTOR, "details.right")
        answer.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        assert answer.find_element(By.TAG_NAME, "p").text.startswith("Right. ")
        assert not quiz.find_element(By.TAG_NAME, "button").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
