"use strict";
const digits = (v) => (
  v === null ? "gap"
  : v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e9) ? v.toExponential(2).replace(/\.?0+e\+?/, "e").replace("e+", "e")
  : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en-GB", { useGrouping: Math.abs(v) >= 1e4 })
  : String(Number(v.toPrecision(4)))
).replaceAll("-", "−");

const time = document.querySelector(".time");
if (time) {
  const [button, slider, shown] = ["button", "input", "output"].map((tag) => time.querySelector(tag));
  const steps = time.dataset.steps.split(" ").map(Number);
  let clock = null;
  const show = () => {
    const i = slider.valueAsNumber;
    shown.value = digits(steps[i]);
    slider.setAttribute("aria-valuetext", `step ${steps[i]}`);
    for (const figure of document.querySelectorAll(".moving")) {
      const shown = Number(figure.dataset.moments.split(" ")[i]), moments = figure.querySelectorAll(".moment");
      moments.forEach((moment, j) => { moment.hidden = j !== shown; });
      figure.querySelector(".at").textContent = `step ${digits(Number(moments[shown].dataset.step ?? steps[i]))}`;
    }
  };
  const stop = () => { clearInterval(clock); clock = null; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (clock) return stop();
    if (slider.value === slider.max) slider.value = 0;
    show();
    button.textContent = "Pause";
    clock = setInterval(() => { slider.stepUp(); show(); if (slider.value === slider.max) stop(); }, 450);
  });
  slider.addEventListener("input", () => { stop(); show(); });
  time.hidden = false;
  show();
}

for (const chart of document.querySelectorAll(".chart")) {
  const [plot, at, cursor] = [".plot", ".at", ".cursor"].map((name) => chart.querySelector(name));
  const values = [...chart.querySelectorAll(".value")], resting = [at, ...values].map((node) => node.textContent);
  const [low, high] = [Number(chart.dataset.low), Number(chart.dataset.high)];
  const lines = JSON.parse(chart.querySelector("script").textContent);
  const nearest = (steps, x) => steps.reduce((best, s, i) => (Math.abs(s - x) < Math.abs(steps[best] - x) ? i : best), 0);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const x = low + ((event.clientX - box.left) / box.width) * (high - low);
    const longest = lines.reduce((a, b) => (b.steps.length > a.steps.length ? b : a));
    const step = longest.steps[nearest(longest.steps, x)];
    cursor.hidden = false;
    cursor.style.left = `${(100 * (step - low)) / (high - low)}%`;
    at.textContent = `step ${digits(step)}`;
    lines.forEach((line, i) => { values[i].textContent = digits(line.values[nearest(line.steps, step)]); });
  });
  plot.addEventListener("pointerleave", () => {
    cursor.hidden = true;
    [at, ...values].forEach((node, i) => { node.textContent = resting[i]; });
  });
}
