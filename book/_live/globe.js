// A globe on a canvas, seen from far away: points and lines on it and in it, what is behind is
// fainter. It can be turned, and points on it can be taken and moved.

import { Plane } from "./plane.js";

const BEHIND = 0.25; // opacity, as a share
const GRASP = 0.2; // how near a point has to be taken
const STEP = 0.07; // radians for an arrow key

export class Globe extends Plane {
  constructor(figure, label) {
    super(figure, 1.15, label);
    [this.turn, this.tilt] = [0, 0.35];
  }

  /** The directions to the right, up and to the viewer, in the globe's own coordinates. */
  get axes() {
    const [c, s] = [Math.cos(this.turn), Math.sin(this.turn)];
    const [up, over] = [Math.cos(this.tilt), Math.sin(this.tilt)];
    return [[-s, c, 0], [-over * c, -over * s, up], [up * c, up * s, over]];
  }

  /** Points as they are seen: to the right, up, to the viewer. */
  seen(x) {
    const axes = this.axes;
    return x.map((_, j) => {
      const i = j - (j % 3);
      const axis = axes[j % 3];
      return axis[0] * x[i] + axis[1] * x[i + 1] + axis[2] * x[i + 2];
    });
  }

  /** The point that is seen at a place, or at a place of the rim when that is off the globe. */
  front(x, y) {
    const far = Math.max(1, Math.hypot(x, y));
    return this.back([x / far, y / far, Math.sqrt(Math.max(0, 1 - (x * x + y * y) / far ** 2))]);
  }

  /** A point in the globe's own coordinates. */
  back(seen) {
    const axes = this.axes;
    return [0, 1, 2].map((d) => axes.reduce((sum, axis, j) => sum + axis[d] * seen[j], 0));
  }

  spots(x, colour, size, opacity = 0.9) {
    const seen = this.seen(x);
    for (let i = 0; i < seen.length; i += 3) {
      const share = seen[i + 2] < 0 ? BEHIND : 1;
      this.points([seen[i], seen[i + 1]], colour, size, share * opacity);
    }
  }

  ring(x, size, colour) {
    const [right, up, near] = this.seen(x);
    this.context.globalAlpha = near < 0 ? 2 * BEHIND : 1;
    this.circle(right, up, size, colour);
    this.context.globalAlpha = 1;
  }

  /** A line through points, in pieces that are before and behind. */
  thread(x, colour, width = 1, opacity = 0.5) {
    const seen = this.seen(x);
    let piece = [];
    for (let i = 0; i < seen.length; i += 3) {
      piece.push(seen[i], seen[i + 1]);
      const before = seen[i + 2] >= 0;
      if (i + 3 < seen.length && before === seen[i + 5] >= 0) continue;
      if (i + 3 < seen.length) piece.push(seen[i + 3], seen[i + 4]);
      this.line(piece, colour, width, before ? opacity : BEHIND * opacity);
      piece = [];
    }
  }

  /** The rim, and circles of latitude and longitude. */
  outline() {
    const around = Array.from({ length: 73 }, (_, i) => (Math.PI * i) / 36);
    this.line(around.flatMap((a) => [Math.cos(a), Math.sin(a)]), "truth", 1, 0.7);
    for (const latitude of [-Math.PI / 4, 0, Math.PI / 4]) {
      const [r, z] = [Math.cos(latitude), Math.sin(latitude)];
      this.thread(around.flatMap((a) => [r * Math.cos(a), r * Math.sin(a), z]), "noise", 1, 0.35);
    }
    for (let k = 0; k < 4; k++) {
      const [c, s] = [Math.cos((Math.PI * k) / 4), Math.sin((Math.PI * k) / 4)];
      const meridian = around.flatMap((a) => [c * Math.cos(a), s * Math.cos(a), Math.sin(a)]);
      this.thread(meridian, "noise", 1, 0.35);
    }
  }

  /** Shade the side that is seen by a density given by its logarithm at points. */
  shade(logProb, colour) {
    this.context.globalAlpha = 0.6;
    this.density((places) => {
      const inside = [];
      for (let i = 0; i < places.length; i += 2) {
        if (Math.hypot(places[i], places[i + 1]) < 1) inside.push(i);
      }
      const values = logProb(
        Float64Array.from(inside.flatMap((i) => this.front(places[i], places[i + 1]))),
      );
      const out = new Float64Array(places.length / 2).fill(-Infinity);
      inside.forEach((i, j) => (out[i / 2] = values[j]));
      return out;
    }, colour);
    this.context.globalAlpha = 1;
  }

  /**
   * Let a point near the pointer be taken and moved, and the globe be turned elsewhere; arrow keys
   * move the point that was taken last. points() are all of them, take(k) and move(point) are
   * called, and turned() when the globe has turned.
   */
  hold({ points, taken, take, move, turned }) {
    const canvas = this.canvas;
    canvas.tabIndex = 0;
    canvas.style.touchAction = "none";
    let last = null; // place of the pointer while the globe is turned
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const [x, y] = this.under(event);
      const seen = this.seen(points());
      let nearest = -1;
      for (let k = 0; k < seen.length / 3; k++) {
        const apart = Math.hypot(seen[3 * k] - x, seen[3 * k + 1] - y);
        if (seen[3 * k + 2] >= 0 && apart < GRASP) nearest = k;
      }
      last = nearest < 0 ? [x, y] : null;
      if (nearest >= 0) take(nearest);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const [x, y] = this.under(event);
      if (last === null) {
        move(this.front(x, y));
      } else {
        this.turn -= x - last[0];
        this.tilt = Math.max(-1.5, Math.min(1.5, this.tilt - (y - last[1])));
        last = [x, y];
        turned();
      }
    });
    canvas.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (!(event.key in turn)) return;
      event.preventDefault();
      const [way, seen] = [turn[event.key], this.seen(taken())];
      const axis = way[0] ? 0 : 1;
      const step = (event.shiftKey ? STEP / 4 : STEP) * way[axis];
      const [side, near] = [seen[axis], seen[2]];
      seen[axis] = Math.cos(step) * side + Math.sin(step) * near;
      seen[2] = Math.cos(step) * near - Math.sin(step) * side;
      move(this.back(seen));
    });
  }
}
