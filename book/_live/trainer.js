// The worker behind the figure of chapter 3. It trains for a moment when it is asked to and then
// answers, so that it rests when nobody asks.

import { Training } from "./training.js";

const MOMENT = 60; // milliseconds
let training;
let measured = -1; // updates at the last measurement of the errors
let sampled = -1;

/** Whether enough updates have passed since the last time: a share of them, but no fewer than some. */
const due = (last, share, least) =>
  last < 0 || training.updates >= last + Math.max(least, share * last);
const measuring = () => due(measured, 0.04, 1);

onmessage = ({ data: { target, seed, rate, most } }) => {
  if (target) training = new Training(target, seed);
  const losses = [];
  const end = performance.now() + MOMENT;
  while (!target && training.updates < most && !measuring() && performance.now() < end) {
    losses.push(training.update(rate));
  }
  const answer = { updates: training.updates, floor: training.floor, losses };
  if (measuring()) {
    measured = training.updates;
    answer.errors = training.errors();
  }
  if (due(sampled, 0.12, 8) || training.updates === most) {
    sampled = training.updates;
    answer.states = training.samples();
  }
  postMessage(answer);
};
