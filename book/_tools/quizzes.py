"""Questions at the end of a chapter: each answer unfolds the reason why it is right or wrong.

    ::::{quiz}
    :::{question} name
    What comes out?

    - [ ] this
      The mistake that leads to it.
    - [x] that
      Why it is so.
    :::
    ::::

A page works without scripts: an answer is a <details>. `countAnswers` in custom.js counts. On paper
all reasons are shown.
"""

import re
from dataclasses import dataclass

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ANSWER = re.compile(r"- \[([ x])\] (.+)")
QUESTION = re.compile(r"^:::\{question\} (\S+)\n(.*?)^:::$", re.M | re.S)


@dataclass(frozen=True)
class Answer:
    """What the reader may choose, whether it is right, and why."""

    text: str
    right: bool
    reason: str


def parse(lines):
    """Return the question and the answers that stand in the lines of a directive."""
    asked, answers = [], []
    for line in lines:
        found = ANSWER.fullmatch(line)
        if found:
            answers.append([found[2], found[1] == "x", []])
        elif answers:
            answers[-1][2].append(line.strip())
        else:
            asked.append(line)
    return " ".join(asked).strip(), [
        Answer(text, right, " ".join(reason).strip()) for text, right, reason in answers
    ]


def read(page):
    """Return {name: (question, answers)} of a chapter's source."""
    found = QUESTION.findall(page.read_text(encoding="utf-8"))
    return {name: parse(content.splitlines()) for name, content in found}


class quiz_node(nodes.General, nodes.Element):
    """Questions, and a line that counts the right answers."""


class question_node(nodes.General, nodes.Element):
    """A group: the question, and its answers."""


class asked_node(nodes.General, nodes.TextElement):
    """The words of the question."""


class answer_node(nodes.General, nodes.Element):
    """A choice that unfolds its reason."""


class chosen_node(nodes.General, nodes.TextElement):
    """The words of an answer."""


def visit_answer(self, node):
    self.body.append(f'<details class="{"right" if node["right"] else "wrong"}">')


def opened(html):
    return lambda self, node: self.body.append(html)


def visit_question(self, node):
    self.body.append(f'<fieldset class="question" id="{node["ids"][0]}">\n')


INTRO = """<div class="quiz">
<p>Choose an answer: it unfolds the reason why it is right or wrong.</p>
"""
COUNT = """<p class="quiz-count pst-js-only"><button type="button">Start again</button>
<span role="status"></span></p></div>
"""


class Quiz(SphinxDirective):
    """The questions of a chapter."""

    has_content = True

    def run(self):
        quiz = quiz_node()
        self.state.nested_parse(self.content, self.content_offset, quiz)
        if not all(isinstance(child, question_node) for child in quiz):
            raise self.error("a quiz holds questions only")
        for number, question in enumerate(quiz, start=1):
            question[0].insert(0, nodes.Text(f"{number}. "))
        return [quiz]


class Question(SphinxDirective):
    """A question with its answers; its name makes the address on the page."""

    has_content = True
    required_arguments = 1

    def run(self):
        asked, answers = parse(self.content)
        if sum(answer.right for answer in answers) != 1:
            raise self.error("of the answers one is right: - [x]")
        question = question_node(ids=[f"quiz-{self.arguments[0]}"])
        question += asked_node("", "", *self.inline(asked))
        for answer in answers:
            verdict = nodes.strong("", "Right." if answer.right else "No.")
            reason = nodes.paragraph("", "", verdict, nodes.Text(" "), *self.inline(answer.reason))
            chosen = chosen_node("", "", *self.inline(answer.text))
            question += answer_node("", chosen, reason, right=answer.right)
        return [question]

    def inline(self, text):
        """Return the nodes of one paragraph."""
        said = nodes.Element()
        self.state.nested_parse(StringList([text]), self.content_offset, said)
        if len(said) != 1 or not isinstance(said[0], nodes.paragraph):
            raise self.error(f"this is not one paragraph: {text!r}")
        return said[0].children


def setup(app):
    app.add_node(quiz_node, html=(opened(INTRO), opened(COUNT)))
    app.add_node(question_node, html=(visit_question, opened("</fieldset>\n")))
    app.add_node(asked_node, html=(opened("<legend>"), opened("</legend>\n")))
    app.add_node(answer_node, html=(visit_answer, opened("</details>\n")))
    app.add_node(chosen_node, html=(opened("<summary>"), opened("</summary>\n")))
    app.add_directive("quiz", Quiz)
    app.add_directive("question", Question)
