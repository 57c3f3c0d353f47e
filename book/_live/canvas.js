// A canvas in a figure, in the colours of the theme; it is drawn again when its size changes.

export class Canvas {
  /** `label` says what it shows to those who do not see it; `kind` is its class of style. */
  constructor(figure, kind, label) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = kind;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", label);
    this.context = this.canvas.getContext("2d");
    figure.controls.before(this.canvas);
    new ResizeObserver(() => {
      this.resize();
      figure.draw?.();
    }).observe(this.canvas);
    this.resize();
  }

  resize() {
    const dots = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth || 300;
    this.height = this.canvas.clientHeight || 300;
    this.canvas.width = Math.round(this.width * dots);
    this.canvas.height = Math.round(this.height * dots);
    this.context.setTransform(dots, 0, 0, dots, 0, 0);
  }

  /** Read a colour of the theme: noise, data, model, truth. */
  colour(name) {
    return getComputedStyle(this.canvas).getPropertyValue(`--live-${name}`).trim() || name;
  }

  clear() {
    this.context.clearRect(0, 0, this.width, this.height);
  }

  /** Write at a pixel, from left to right or upwards. */
  write(words, x, y, { colour = "truth", align = "left", upwards = false } = {}) {
    const c = this.context;
    c.save();
    c.fillStyle = this.colour(colour);
    c.font = "12px sans-serif";
    c.textAlign = align;
    c.translate(x, y);
    if (upwards) c.rotate(-Math.PI / 2);
    c.fillText(words, 0, 0);
    c.restore();
  }
}
