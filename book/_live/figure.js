// What every living figure is made of: a stage with a canvas, controls and words, and a clock that
// runs only while the figure is seen.

/** "1 step", "2 steps". */
export const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

const CALM = matchMedia("(prefers-reduced-motion: reduce)");

export class Figure {
  /** Fill the stage of a <figure class="live">. */
  constructor(element, label) {
    this.stage = element.querySelector(".live-stage");
    this.controls = document.createElement("div");
    this.controls.className = "live-controls";
    this.controls.setAttribute("role", "group");
    this.controls.setAttribute("aria-label", label);
    this.words = document.createElement("p");
    this.words.className = "live-words";
    this.words.setAttribute("aria-live", "polite");
    this.stage.append(this.controls, this.words);
    this.playing = false;
    this.seen = false;
    this.last = null;
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      this.wake();
    }).observe(this.stage);
    document.addEventListener("visibilitychange", () => this.wake());
    new MutationObserver(() => this.draw?.()).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
  }

  /** Whether the reader asked for less motion: then nothing moves before a button is pressed. */
  get calm() {
    return CALM.matches;
  }

  /** Call tick(seconds since the last call) while the figure is seen and not paused. */
  play(tick) {
    this.tick = tick;
    this.playing = true;
    this.wake();
  }

  pause() {
    this.playing = false;
  }

  wake() {
    if (this.waiting || !this.playing || !this.seen || document.hidden) return;
    this.waiting = requestAnimationFrame((now) => {
      this.waiting = null;
      const passed = this.last === null ? 0 : Math.min((now - this.last) / 1000, 0.1);
      this.last = now;
      if (this.playing && this.seen && !document.hidden) {
        this.guard(() => this.tick(passed));
        this.wake();
      } else {
        this.last = null;
      }
    });
  }

  /** Run something; what goes wrong becomes a sentence under the figure. */
  guard(action) {
    try {
      action();
    } catch (error) {
      this.pause();
      this.say(`This figure stopped: ${error.message}. Reload the page to start it again.`);
    }
  }

  say(words) {
    const sentence = words.trim().replace(/(?<!\w)-(?=\d)/g, "−");
    if (this.words.textContent !== sentence) this.words.textContent = sentence;
  }

  /** A labelled slider; change(value) is called with its number. */
  slider(label, { min, max, step, value, show = (v) => v.toFixed(2) }, change) {
    const { field, input } = this.field(label, "input");
    Object.assign(input, { type: "range", min, max, step, value });
    const output = document.createElement("output");
    field.append(output);
    const tell = () => {
      output.textContent = show(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      tell();
      this.guard(() => change(Number(input.value)));
    });
    tell();
    return {
      input,
      set(number) {
        input.value = number;
        tell();
      },
    };
  }

  /**
   * A slider of the time t up to an end and a button that plays it in some seconds. The figure draws
   * itself at `t` of what this returns.
   */
  timeline({ end = 1, step = 0.01, seconds }) {
    const time = {
      t: 0,
      set: (t) => {
        time.t = t;
        slider.set(t);
      },
      play: () => {
        if (time.t >= end) time.set(0);
        button.textContent = "Pause";
        this.play((passed) => {
          time.set(Math.min(end, time.t + (end * passed) / seconds));
          this.draw();
          if (time.t === end) time.stop();
        });
      },
      stop: () => {
        this.pause();
        button.textContent = "Play";
      },
    };
    const slider = this.slider("time t", { min: 0, max: end, step, value: 0 }, (t) => {
      time.stop();
      time.t = t;
      this.draw();
    });
    const button = this.button("Play", () => (this.playing ? time.stop() : time.play()));
    return time;
  }

  /** A labelled list of choices; change(name) is called with the chosen one. */
  choice(label, names, change) {
    const { input } = this.field(label, "select");
    for (const name of names) input.add(new Option(name));
    input.addEventListener("change", () => this.guard(() => change(input.value)));
    return input;
  }

  button(label, press) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => this.guard(() => press(button)));
    this.controls.append(button);
    return button;
  }

  field(label, kind) {
    const field = document.createElement("label");
    const input = document.createElement(kind);
    field.append(`${label} `, input);
    this.controls.append(field);
    return { field, input };
  }
}
