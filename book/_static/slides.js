// Slides: break what is too long for one slide, then let reveal.js show them. Arrows go from slide
// to slide, down to a proof; "O" shows all, "S" opens the speaker's window, "?" tells the rest.
// With ?view=print in the address, printing gives a slide a page.

import Reveal from "./reveal/reveal.mjs";
import Notes from "./reveal/notes.mjs";

const SMALLER = [0.95, 0.9, 0.85, 0.8]; // rather than that a few lines go to another slide
const SMALLEST = 0.6; // for what cannot be divided
const PICTURE = 380; // pixels that a figure gets, or a slide of its own
const printed = new URLSearchParams(location.search).get("view") === "print";

function chooseColours() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    const wanted = localStorage.getItem("theme"); // as chosen on the pages
    const own = wanted === "light" || wanted === "dark" ? wanted : dark.matches ? "dark" : "light";
    document.documentElement.dataset.theme = printed ? "light" : own;
  };
  dark.addEventListener("change", follow);
  follow();
}

const tooHigh = (box) => box.scrollHeight > box.clientHeight + 1;
const low = (box) => box.getBoundingClientRect().top + box.clientHeight * 0.8;
const tooWide = (box) => box.scrollWidth > box.clientWidth + 1;

/** The element whose children may stand on two slides, or null. */
function divisible(block) {
  if (block.matches("ul, ol")) return block;
  if (block.matches(".pst-scrollable-table-container")) return block.querySelector("tbody");
  if (block.matches(".admonition")) return block.querySelector(":scope > .inside") ?? block;
  return null;
}

/** A copy of a block without what is in its divisible part: the start of its second half. */
function emptied(block) {
  const copy = block.cloneNode(true);
  divisible(copy).replaceChildren();
  copy.removeAttribute("id");
  const title = copy.querySelector(":scope > .admonition-title");
  if (title) title.append(" (continued)");
  return copy;
}

/** Move what does not fit from the end of a box to an empty one. */
function overflow(box, rest) {
  while (tooHigh(box)) {
    const last = box.lastElementChild;
    const inner = divisible(last);
    const first = box.children.length === 1; // a statement is cut only if it had a slide of its own
    const may = first || (!last.matches(".admonition") && last.getBoundingClientRect().top < low(box));
    if (inner?.children.length > 1 && may) {
      const second = emptied(last);
      const target = divisible(second);
      const all = [...inner.children];
      while (tooHigh(box) && inner.children.length > 1) target.prepend(inner.lastElementChild);
      if (!tooHigh(box)) {
        if (second.matches("ol")) second.start = last.start + inner.children.length;
        rest.prepend(second);
        return;
      }
      inner.append(...all.slice(inner.children.length));
    }
    if (!first) {
      rest.prepend(last);
    } else if (last.matches(".keep")) {
      last.replaceWith(...last.childNodes);
    } else {
      shrink(box);
      return;
    }
  }
}

function shrink(box) {
  for (let size = 0.95; tooHigh(box) && size >= SMALLEST; size -= 0.05) {
    box.firstElementChild.style.zoom = size;
  }
}

/** Make a slide narrower and shorter where it is too wide and too long. */
function fit(slide) {
  for (const wide of slide.querySelectorAll(".formula, pre, .pst-scrollable-table-container")) {
    const ratio = wide.clientWidth / wide.scrollWidth;
    if (ratio < 1) wide.style.zoom = ratio * 0.99;
  }
  const box = slide.querySelector(".content");
  const figure = box.querySelector(":scope > figure");
  const cramped = figure?.previousElementSibling
    && (figure.matches(".live") || figure.clientHeight < PICTURE);
  if (!tooHigh(box) && !cramped) return;
  if (!figure) {
    for (box.style.zoom of SMALLER) if (!tooHigh(box)) return;
    box.style.zoom = "";
  }
  const next = slide.cloneNode(true);
  next.removeAttribute("id");
  const head = next.querySelector(".place");
  head.outerHTML = `<p class="place">${head.innerHTML}</p>`;
  const rest = next.querySelector(".content");
  rest.replaceChildren();
  if (cramped) rest.append(figure);
  overflow(box, rest);
  if (!rest.children.length) return;
  slide.querySelector(".notes")?.remove(); // they are spoken when all is shown
  slide.after(next);
  fit(next);
}

/** Start the living figure of a slide, as large as there is room. */
function wake(slide) {
  const figure = slide.querySelector("figure.live:not([data-awake])");
  if (!figure || printed) return;
  figure.dataset.awake = "";
  const stage = figure.querySelector(".live-stage");
  const grow = () => {
    for (let size = 1.5; size >= SMALLEST; size -= 0.05) {
      stage.style.zoom = size;
      if (!tooHigh(stage) && !tooWide(stage)) return;
    }
  };
  new MutationObserver(grow).observe(stage, { childList: true });
  import(new URL(figure.dataset.live, document.baseURI))
    .then((module) => module.start(figure))
    .then(grow)
    .catch((error) => {
      figure.classList.add("failed");
      stage.textContent = `This figure could not start (${error.message}).`;
    });
}

chooseColours();
await document.fonts.ready;
document.documentElement.classList.add("measured");
await Promise.all([...document.fonts].map((font) => font.load().catch(() => 0)));
for (const slide of document.querySelectorAll("section[data-kind]")) fit(slide);
document.documentElement.classList.remove("measured");
if (printed) document.querySelectorAll("img").forEach((image) => (image.loading = "eager"));

Reveal.on("ready", (event) => wake(event.currentSlide));
Reveal.on("slidechanged", (event) => wake(event.currentSlide));
await Reveal.initialize({
  width: 1280,
  height: 720,
  margin: 0,
  maxScale: 3,
  center: false,
  hash: true,
  transition: "none",
  slideNumber: "c/t",
  pdfMaxPagesPerSlide: 1,
  scrollActivationWidth: null,
  // in a living figure, keys are the figure's
  keyboardCondition: () => !document.activeElement?.closest("figure.live"),
  plugins: [Notes],
});
document.documentElement.classList.add("shown"); // for who waits for it
