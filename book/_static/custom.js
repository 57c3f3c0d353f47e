// What the pages do beyond the theme: mark what scrolls sideways, count answers, wake living figures,
// open pictures large, stop the film, and print in light colours.

const SCROLLERS =
  ".bd-article .formula, .bd-article pre, .bd-article .pst-scrollable-table-container";

function mark(box) {
  const hidden = box.scrollWidth - box.clientWidth;
  const scrolls = hidden > 1;
  box.classList.toggle("more-right", scrolls && box.scrollLeft < hidden - 1);
  box.classList.toggle("more-left", scrolls && box.scrollLeft > 1);
  if (scrolls) {
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "scrolls sideways");
  } else if (box.getAttribute("aria-label") === "scrolls sideways") {
    for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
  }
}

function watchScrollers() {
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
  for (const box of document.querySelectorAll(SCROLLERS)) {
    sizes.observe(box);
    box.addEventListener("scroll", () => mark(box), { passive: true });
  }
  document.fonts.ready.then(() => document.querySelectorAll(SCROLLERS).forEach(mark));
}

function openPicturesLarge() {
  const dialog = document.createElement("dialog");
  dialog.className = "large-picture";
  dialog.setAttribute("aria-label", "Picture in its own size");
  document.body.append(dialog);
  dialog.addEventListener("click", () => dialog.close());
  for (const link of document.querySelectorAll("a.lab-picture")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab, as asked
      event.preventDefault();
      const picture = link.querySelector("img").cloneNode();
      for (const name of ["width", "height"]) picture.removeAttribute(name);
      const close = document.createElement("button");
      close.textContent = "Close";
      const view = document.createElement("div");
      view.tabIndex = 0;
      view.setAttribute("role", "group");
      view.setAttribute("aria-label", "The picture; scrolls");
      view.append(picture);
      dialog.replaceChildren(close, view);
      dialog.showModal();
    });
  }
}

function letFilmsPause() {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const film of document.querySelectorAll("img[data-still]")) {
    const moving = film.src;
    const button = document.createElement("button");
    button.className = "film-button";
    const show = (plays) => {
      film.src = plays ? moving : film.dataset.still;
      button.textContent = plays ? "Stop the film" : "Play the film";
    };
    button.addEventListener("click", () => show(film.src !== moving));
    show(!calm);
    film.closest("a").after(button);
  }
}

function printInLightColours() {
  const root = document.documentElement.dataset;
  let before;
  addEventListener("beforeprint", () => {
    before = root.theme;
    root.theme = "light";
    document.querySelectorAll("img[loading=lazy]").forEach((image) => (image.loading = "eager"));
  });
  addEventListener("afterprint", () => (root.theme = before));
}

function wakeLivingFigures() {
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      import(new URL(target.dataset.live, document.baseURI))
        .then((module) => module.start(target))
        .catch((error) => {
          target.classList.add("failed");
          target.querySelector(".live-stage").textContent =
            `This figure could not start (${error.message}); its picture stands here instead.`;
        });
    }
  }, { rootMargin: "100px" });
  document.querySelectorAll("figure.live").forEach((figure) => near.observe(figure));
}

/** Say of each quiz how many questions were answered right at the first try. */
function countAnswers() {
  for (const quiz of document.querySelectorAll(".quiz")) {
    const first = new Map(); // question: whether the answer that was opened first is right
    const [button, said] = quiz.querySelectorAll(".quiz-count > *");
    quiz.addEventListener("toggle", ({ target }) => {
      const question = target.closest(".question");
      if (!target.open || first.has(question)) return;
      first.set(question, target.matches(".right"));
      const right = [...first.values()].filter(Boolean).length;
      said.textContent = `${right} of ${first.size} right at the first try.`;
    }, true); // "toggle" does not bubble
    button.addEventListener("click", () => {
      quiz.querySelectorAll("details").forEach((answer) => (answer.open = false));
      first.clear();
      said.textContent = "";
    });
  }
}

watchScrollers();
countAnswers();
wakeLivingFigures();
openPicturesLarge();
letFilmsPause();
printInLightColours();
