"use strict";
// Charts are drawn when they come near the screen; until then, on paper and without JavaScript the
// static drawing of the same specification stands in their place.
(() => {
  const views = new Map();
  const boxes = [...document.querySelectorAll("input[data-arm]")];
  const shown = new Set(boxes.map((box) => box.dataset.arm));

  function apply(view, rows) {
    if (rows) {
      let count = rows.always;
      for (const [arm, its] of Object.entries(rows.arms)) if (shown.has(arm)) count += its;
      view.height(Math.max(1, count) * rows.step);
    }
    return view.signal("shown", [...shown]).runAsync();
  }

  async function draw(figure) {
    const place = figure.querySelector(".live");
    const specification = JSON.parse(figure.querySelector("script.chart").textContent);
    figure.classList.add("drawing");
    place.append(document.createElement("div"));
    const { view } = await vegaEmbed(place.firstChild, specification, {
      actions: false,
      renderer: "svg",
      ast: true, // no code is made from text: the page's policy forbids it
      logLevel: 1, // errors
      tooltip: { disableDefaultStyle: true, theme: "fedmed" },
    });
    const rows = specification.usermeta?.rows;
    views.set(view, rows);
    await apply(view, rows);
    figure.classList.add("drawn");
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          near.unobserve(entry.target);
          draw(entry.target).catch((error) => {
            entry.target.querySelector(".live").replaceChildren(); // the static drawing stays
            console.error(error);
          });
        }
      }
    },
    { rootMargin: "600px" },
  );
  for (const script of document.querySelectorAll("script.chart")) near.observe(script.closest("figure"));

  function choose(arm, checked) {
    if (checked) shown.add(arm);
    else shown.delete(arm);
    for (const box of boxes) if (box.dataset.arm === arm) box.checked = checked;
    for (const figure of document.querySelectorAll("figure[data-only]")) {
      figure.hidden = !shown.has(figure.dataset.only);
    }
    for (const [view, rows] of views) apply(view, rows);
  }
  for (const box of boxes) {
    box.checked = true; // browsers restore what was chosen before a reload
    box.addEventListener("change", () => choose(box.dataset.arm, box.checked));
  }

  // Paper has no closed parts.
  const opened = [];
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) {
      if (part.closest(".beside")) continue;
      part.open = true;
      opened.push(part);
    }
  });
  addEventListener("afterprint", () => {
    while (opened.length) opened.pop().open = false;
  });
})();
