"use strict";
const digits = (v) => (
  v === null ? "gap"
  : v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e9) ? v.toExponential(2).replace(/\.?0+e\+?/, "e").replace("e+", "e")
  : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en-US", { useGrouping: Math.abs(v) >= 1e4 })
  : String(Number(v.toPrecision(4)))
).replaceAll("-", "−");

const control = document.querySelector(".slider");
if (control) {
  const [button, slider, shown] = ["button", "input", "output"].map((tag) => control.querySelector(tag));
  const steps = control.dataset.steps.split(" ").map(Number);
  let timer = null;
  const show = () => {
    const i = slider.valueAsNumber;
    shown.value = digits(steps[i]);
    slider.setAttribute("aria-valuetext", `step ${steps[i]}`);
    for (const figure of document.querySelectorAll(".over-time")) {
      const index = Number(figure.dataset.indices.split(" ")[i]), snapshots = figure.querySelectorAll(".snapshot");
      snapshots.forEach((snapshot, j) => { snapshot.hidden = j !== index; });
      figure.querySelector(".at").textContent = `step ${digits(Number(snapshots[index].dataset.step ?? steps[i]))}`;
    }
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    show();
    button.textContent = "Pause";
    timer = setInterval(() => { slider.stepUp(); show(); if (slider.value === slider.max) stop(); }, 450);
  });
  slider.addEventListener("input", () => { stop(); show(); });
  control.hidden = false;
  show();
}

for (const chart of document.querySelectorAll(".chart")) {
  const [plot, at, cursor] = [".plot", ".at", ".cursor"].map((name) => chart.querySelector(name));
  const values = [...chart.querySelectorAll(".value")], initial = [at, ...values].map((node) => node.textContent);
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
    [at, ...values].forEach((node, i) => { node.textContent = initial[i]; });
  });
}

const reload = Number(document.body.dataset.reload) * 1000;
if (reload) {
  // Not while somebody uses the page: reloading resets what they have chosen.
  let used = 0;
  for (const event of ["pointerdown", "pointermove", "keydown", "wheel"]) {
    addEventListener(event, () => { used = performance.now(); }, { passive: true });
  }
  setInterval(() => {
    if (!document.hidden && performance.now() - used >= reload) location.reload();
  }, reload);
}
