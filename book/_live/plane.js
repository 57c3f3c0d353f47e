// A square of the plane on a canvas: points, arrows, lines and densities, in light and in dark.

import { Canvas } from "./canvas.js";

const RESOLUTION = 90; // cells a side of a density

export class Plane extends Canvas {
  /** Show [−extent, extent]² in a figure; `label` says what it shows to those who do not see it. */
  constructor(figure, extent, label) {
    super(figure, "live-plane", label);
    this.extent = extent;
  }

  get side() {
    return this.width;
  }

  /** Pixels of a place, and of a length. */
  at(x, y) {
    const unit = this.side / (2 * this.extent);
    return [(x + this.extent) * unit, (this.extent - y) * unit];
  }

  /** The place in the plane under a pointer. */
  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = (2 * this.extent) / box.width;
    return [
      (event.clientX - box.left) * scale - this.extent,
      this.extent - (event.clientY - box.top) * scale,
    ];
  }

  points(x, colour, size = 2, opacity = 0.8) {
    const c = this.context;
    c.fillStyle = this.colour(colour);
    c.globalAlpha = opacity;
    for (let i = 0; i < x.length; i += 2) {
      const [px, py] = this.at(x[i], x[i + 1]);
      c.beginPath();
      c.arc(px, py, size, 0, 2 * Math.PI);
      c.fill();
    }
    c.globalAlpha = 1;
  }

  circle(x, y, size, colour) {
    const c = this.context;
    const [px, py] = this.at(x, y);
    c.strokeStyle = this.colour(colour);
    c.lineWidth = 2;
    c.beginPath();
    c.arc(px, py, size, 0, 2 * Math.PI);
    c.stroke();
  }

  line(places, colour, width = 1, opacity = 0.5) {
    const c = this.context;
    c.strokeStyle = this.colour(colour);
    c.lineWidth = width;
    c.globalAlpha = opacity;
    c.beginPath();
    for (let i = 0; i < places.length; i += 2) c.lineTo(...this.at(places[i], places[i + 1]));
    c.stroke();
    c.globalAlpha = 1;
  }

  /** The way of the i-th point through some states. */
  way(states, i, colour, width, opacity) {
    this.line(states.flatMap((x) => [x[2 * i], x[2 * i + 1]]), colour, width, opacity);
  }

  /** A closed outline, shaded inside. */
  polygon(places, colour) {
    const c = this.context;
    c.fillStyle = c.strokeStyle = this.colour(colour);
    c.lineWidth = 1.5;
    c.beginPath();
    for (let i = 0; i < places.length; i += 2) c.lineTo(...this.at(places[i], places[i + 1]));
    c.closePath();
    c.stroke();
    c.globalAlpha = 0.25;
    c.fill();
    c.globalAlpha = 1;
  }

  arrow(x, y, dx, dy, colour, width = 1.5, opacity = 1) {
    const c = this.context;
    const [fromX, fromY] = this.at(x, y);
    const [toX, toY] = this.at(x + dx, y + dy);
    const length = Math.hypot(toX - fromX, toY - fromY);
    if (length < 0.5) return;
    const head = Math.min(3 + 2 * width, length / 2);
    const angle = Math.atan2(toY - fromY, toX - fromX);
    c.strokeStyle = c.fillStyle = this.colour(colour);
    c.lineWidth = width;
    c.globalAlpha = opacity;
    c.beginPath();
    c.moveTo(fromX, fromY);
    c.lineTo(toX - 0.7 * head * Math.cos(angle), toY - 0.7 * head * Math.sin(angle));
    c.stroke();
    c.beginPath();
    c.moveTo(toX, toY);
    for (const side of [0.4, -0.4]) {
      c.lineTo(toX - head * Math.cos(angle + side), toY - head * Math.sin(angle + side));
    }
    c.fill();
    c.globalAlpha = 1;
  }

  /** The places of a grid with n cells a side, in their middles. */
  grid(n) {
    const out = new Float64Array(2 * n * n);
    for (let i = 0; i < n * n; i++) {
      out[2 * i] = this.extent * ((2 * (i % n) + 1) / n - 1);
      out[2 * i + 1] = this.extent * ((2 * Math.floor(i / n) + 1) / n - 1);
    }
    return out;
  }

  /** The arrows of velocities at places; the longest of them is `longest` long. */
  arrows(x, v, longest, colour, opacity = 0.6) {
    let fastest = 1e-12;
    for (let i = 0; i < v.length; i += 2) fastest = Math.max(fastest, Math.hypot(v[i], v[i + 1]));
    const scale = longest / fastest;
    for (let i = 0; i < x.length; i += 2) {
      this.arrow(x[i], x[i + 1], scale * v[i], scale * v[i + 1], colour, 1, opacity);
    }
  }

  /** Shade by a density given by its logarithm at places. */
  density(logProb, colour = "model") {
    const n = RESOLUTION;
    const values = logProb(this.grid(n)).map(Math.exp);
    const most = values.reduce((a, b) => Math.max(a, b), 1e-300);
    const paint = (this.paint ??= new OffscreenCanvas(n, n));
    const brush = paint.getContext("2d", { willReadFrequently: true });
    brush.fillStyle = this.colour(colour);
    brush.fillRect(0, 0, n, n);
    const image = brush.getImageData(0, 0, n, n);
    for (let i = 0; i < n * n; i++) {
      const row = n - 1 - Math.floor(i / n); // rows of a picture run down
      image.data[4 * (row * n + (i % n)) + 3] = 150 * (values[i] / most);
    }
    brush.putImageData(image, 0, 0);
    this.context.drawImage(paint, 0, 0, this.side, this.side);
  }

  /** Let a place be dragged by mouse and finger and moved by arrow keys; move(x, y) is called. */
  handle(place, move) {
    const canvas = this.canvas;
    canvas.tabIndex = 0;
    canvas.style.touchAction = "none";
    const to = (x, y) => move(this.inside(x), this.inside(y));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      to(...this.under(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) to(...this.under(event));
    });
    canvas.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (!(event.key in turn)) return;
      event.preventDefault();
      const far = this.extent / (event.shiftKey ? 100 : 25);
      const [x, y] = place();
      to(x + far * turn[event.key][0], y + far * turn[event.key][1]);
    });
  }

  /**
   * Let points be drawn that are some way apart: a mouse or a finger begins a line, arrow keys go
   * on from the last point. change() is called on the way and done() at its end. Returns the list
   * x₀, y₀, x₁, … of the last `most` points.
   */
  pen(apart, most, change, done) {
    const drawing = [];
    this.handle(
      () => (drawing.length ? drawing.slice(-2) : [0, 0]),
      (x, y) => {
        const far = Math.hypot(x - drawing.at(-2), y - drawing.at(-1));
        if (drawing.length === 0 || far > apart) drawing.push(x, y);
        if (drawing.length > 2 * most) drawing.splice(0, 2);
        change();
      },
    );
    this.canvas.addEventListener("pointerdown", () => (drawing.length = 0), true);
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, done);
    this.canvas.addEventListener("keyup", (event) => {
      if (event.key.startsWith("Arrow")) done();
    });
    return drawing;
  }

  inside(value) {
    return Math.max(-this.extent, Math.min(this.extent, value));
  }
}
