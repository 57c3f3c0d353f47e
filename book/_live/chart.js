// A small chart on a canvas: axes, linear or logarithmic, with dots, lines and bars.

import { Canvas } from "./canvas.js";

const LEFT = 60;
const BELOW = 40;
const GAP = 10;

/** Heights of a histogram of numbers over equal intervals, as a density. */
export function histogram(values, { from, to }, bins) {
  const heights = Array(bins).fill(0);
  const width = (to - from) / bins;
  for (const value of values) {
    const bin = Math.floor((value - from) / width);
    if (bin >= 0 && bin < bins) heights[bin] += 1 / (values.length * width);
  }
  return heights;
}

export class Chart extends Canvas {
  /** Axes {label, from, to, log} for x and y; `label` says what it shows. */
  constructor(figure, label, x, y) {
    super(figure, "live-chart", label);
    this.x = x;
    this.y = y;
  }

  static share({ from, to, log }, value) {
    if (!log) return (value - from) / (to - from);
    return Math.log(value / from) / Math.log(to / from);
  }

  /** Pixels of a value, kept inside the axes. */
  at(x, y) {
    const inside = (share) => Math.max(0, Math.min(1, share));
    const wide = this.width - LEFT - GAP;
    const high = this.height - BELOW - GAP;
    return [
      LEFT + wide * inside(Chart.share(this.x, x)),
      GAP + high * (1 - inside(Chart.share(this.y, y))),
    ];
  }

  static ticks({ from, to, log }) {
    if (!log) return [from, (from + to) / 2, to];
    const first = Math.ceil(Math.log10(from) - 1e-9);
    const count = Math.floor(Math.log10(to) + 1e-9) - first + 1;
    return Array.from({ length: count }, (_, i) => 10 ** (first + i));
  }

  /** Show the axes alone. */
  clear() {
    super.clear();
    const c = this.context;
    const { x, y } = this;
    c.strokeStyle = this.colour("truth");
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(...this.at(x.from, y.to));
    c.lineTo(...this.at(x.from, y.from));
    c.lineTo(...this.at(x.to, y.from));
    c.stroke();
    const said = (value) => Number(value.toPrecision(2)).toString().replace("-", "−");
    for (const tick of Chart.ticks(x)) {
      const [px, py] = this.at(tick, y.from);
      this.write(said(tick), px, py + 14, { align: "center" });
    }
    for (const tick of Chart.ticks(y)) {
      const [px, py] = this.at(x.from, tick);
      this.write(said(tick), px - 4, py + 4, { align: "right" });
    }
    this.write(x.label, (LEFT + this.width) / 2, this.height - 6, { align: "center" });
    this.write(y.label, 11, (this.height - BELOW) / 2, { align: "center", upwards: true });
  }

  dot(x, y, colour, size = 4) {
    const c = this.context;
    c.fillStyle = this.colour(colour);
    c.beginPath();
    c.arc(...this.at(x, y), size, 0, 2 * Math.PI);
    c.fill();
  }

  /** A line through [x, y] pairs. */
  line(pairs, colour, width = 1.5, dash = []) {
    const c = this.context;
    c.strokeStyle = this.colour(colour);
    c.lineWidth = width;
    c.setLineDash(dash);
    c.beginPath();
    for (const [x, y] of pairs) c.lineTo(...this.at(x, y));
    c.stroke();
    c.setLineDash([]);
  }

  /** Bars from the axis up: heights over equal intervals of x. */
  bars(heights, colour) {
    const c = this.context;
    const step = (this.x.to - this.x.from) / heights.length;
    c.fillStyle = this.colour(colour);
    c.globalAlpha = 0.5;
    heights.forEach((height, i) => {
      const [left, top] = this.at(this.x.from + i * step, height);
      const [right, bottom] = this.at(this.x.from + (i + 1) * step, this.y.from);
      c.fillRect(left, top, right - left - 0.5, bottom - top);
    });
    c.globalAlpha = 1;
  }

  text(said, x, y, colour) {
    const [px, py] = this.at(x, y);
    this.write(said, px + 6, py + 4, { colour });
  }
}
