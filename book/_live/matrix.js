// A plan on a canvas: a shaded cell for each entry, the sums of rows and columns as bars beside it.

import { Canvas } from "./canvas.js";

const LONG = 28; // of a bar for a sum that is right
const EDGE = 18; // above and left of the cells, for a word

export class Matrix extends Canvas {
  constructor(figure, label) {
    super(figure, "live-chart", label);
  }

  /** Draw a square plan, a box around each of `pairs` [row, column] and around one column. */
  show(plan, pairs, chosen) {
    const c = this.context;
    const n = plan.length;
    const bars = 2.5 * LONG;
    const cell = Math.max(1, Math.floor(Math.min(
      (this.height - EDGE - bars / 2) / n,
      (this.width - EDGE - bars) / n,
    )));
    const side = n * cell;
    const left = EDGE + Math.max(0, (this.width - EDGE - side - bars) / 2);
    const box = (i, j) => [left + j * cell, EDGE + i * cell, cell, cell];
    this.clear();
    c.fillStyle = this.colour("model");
    plan.forEach((row, i) =>
      row.forEach((value, j) => {
        c.globalAlpha = Math.min(1, n * value);
        c.fillRect(...box(i, j));
      }),
    );
    c.globalAlpha = 1;
    c.strokeStyle = this.colour("truth");
    c.lineWidth = 1;
    c.strokeRect(left - 0.5, EDGE - 0.5, side + 1, side + 1);
    for (const [i, j] of pairs) {
      const [x, y] = box(i, j);
      c.strokeRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
    }
    c.strokeStyle = this.colour("data");
    c.strokeRect(left + chosen * cell - 0.5, EDGE - 0.5, cell + 1, side + 1);
    // a sum that is right makes a bar that ends at the dashed line; a wrong one is orange
    const short = 0.4; // columns have less room
    const paint = (sum) => this.colour(Math.abs(n * sum - 1) > 0.05 ? "data" : "noise");
    for (let k = 0; k < n; k++) {
      const row = plan[k].reduce((sum, value) => sum + value);
      c.fillStyle = paint(row);
      c.fillRect(left + side + 4, EDGE + k * cell + 1, LONG * Math.min(2.2, n * row), cell - 2);
      const column = plan.reduce((sum, values) => sum + values[k], 0);
      c.fillStyle = paint(column);
      c.fillRect(left + k * cell + 1, EDGE + side + 4, cell - 2, short * LONG * n * column);
    }
    c.strokeStyle = this.colour("truth");
    c.setLineDash([3, 3]);
    c.beginPath();
    c.moveTo(left + side + 4 + LONG, EDGE);
    c.lineTo(left + side + 4 + LONG, EDGE + side);
    c.moveTo(left, EDGE + side + 4 + short * LONG);
    c.lineTo(left + side, EDGE + side + 4 + short * LONG);
    c.stroke();
    c.setLineDash([]);
    this.write("data", left + side / 2, EDGE - 6, { align: "center" });
    this.write("noise", left - 6, EDGE + side / 2, { align: "center", upwards: true });
    this.write("row sums", left + side + 4, EDGE - 6);
    this.write("column sums", left + side + 4, EDGE + side + 4 + short * LONG);
  }
}
