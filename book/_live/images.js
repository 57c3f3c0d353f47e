// Small grey images on a canvas, −1 black and 1 white, and a place to draw one.

import { Plane } from "./plane.js";

export const SIDE = 28;
export const PIXELS = SIDE * SIDE;
const BRUSH = 1.7; // pixels to either side of a stroke
const REST = 600; // milliseconds after which a drawing is done

const paint = new OffscreenCanvas(SIDE, SIDE);
const brush = paint.getContext("2d");
const picture = brush.createImageData(SIDE, SIDE);

/** Draw an image into a square of a canvas. */
export function drawImage(context, pixels, left, top, side) {
  const bytes = picture.data; // they clamp and round
  for (let i = 0; i < PIXELS; i++) {
    bytes[4 * i] = bytes[4 * i + 1] = bytes[4 * i + 2] = 127.5 * (pixels[i] + 1);
    bytes[4 * i + 3] = 255;
  }
  brush.putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(paint, left, top, side, side);
}

/** A place to draw by pointer, finger or arrow keys; after a rest done(image) is called. */
export class Pad extends Plane {
  constructor(figure, label, invitation, done) {
    super(figure, SIDE / 2, `${label} Arrow keys draw, Delete clears.`);
    this.canvas.style.width = "8rem";
    this.invitation = invitation;
    this.image = new Float64Array(PIXELS);
    this.rested = true; // the next stroke begins another drawing
    this.erase();
    this.handle(
      () => this.pen ?? [0, 0],
      (x, y) => this.stroke(x, y),
    );
    const down = (event) => {
      if (this.rested) this.erase();
      this.pen = this.under(event);
    };
    this.canvas.addEventListener("pointerdown", down, true);
    this.canvas.addEventListener("keydown", ({ key }) => {
      if (key === "Delete" || key === "Backspace") this.erase();
    });
    const rest = () => {
      clearTimeout(this.clock);
      this.clock = setTimeout(() => {
        this.rested = true;
        if (this.pen) done(this.image);
      }, REST);
    };
    for (const end of ["pointerup", "pointercancel", "keyup"]) {
      this.canvas.addEventListener(end, rest);
    }
  }

  erase() {
    this.image.fill(-1);
    this.pen = null;
    this.draw();
  }

  draw() {
    this.clear();
    drawImage(this.context, this.image, 0, 0, this.side);
    if (this.pen) return;
    this.context.font = "13px sans-serif";
    this.context.fillStyle = "white";
    this.context.fillText(this.invitation, 8, 20);
  }

  /** Draw from the pen to a place. */
  stroke(x, y) {
    clearTimeout(this.clock);
    this.rested = false;
    const [fromX, fromY] = this.pen ?? [x, y];
    const pieces = Math.ceil(Math.hypot(x - fromX, y - fromY)) || 1; // a pointer is fast
    for (let i = 1; i <= pieces; i++) {
      this.dot(fromX + ((x - fromX) * i) / pieces, fromY + ((y - fromY) * i) / pieces);
    }
    this.pen = [x, y];
    this.draw();
  }

  dot(x, y) {
    for (let i = 0; i < PIXELS; i++) {
      const [across, up] = [(i % SIDE) + 0.5 - SIDE / 2, SIDE / 2 - Math.floor(i / SIDE) - 0.5];
      const ink = 2 * (BRUSH - Math.hypot(across - x, up - y)) - 1;
      this.image[i] = Math.max(this.image[i], Math.min(1, ink));
    }
  }
}
