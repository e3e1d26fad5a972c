"use strict";

// Tables: a click on a heading sorts by its column, a second one the other way round; gaps come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.sort;
      const numeric = !head.classList.contains("text");
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
        return descending ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Answers: the filter, and a page's worth at a time.
const PAGE = 12;
const filters = document.querySelector(".filters");
if (filters) {
  const samples = [...document.querySelectorAll(".sample")];
  const more = document.querySelector(".more");
  let shown = PAGE;
  const update = () => {
    const status = filters.elements.status.value;
    const dataset = filters.elements.dataset ? filters.elements.dataset.value : "";
    const found = samples.filter((sample) =>
      (status === "all" || sample.dataset.status.split(" ").includes(status))
      && (!dataset || sample.dataset.dataset === dataset));
    const visible = new Set(found.slice(0, shown));
    for (const sample of samples) sample.hidden = !visible.has(sample);
    filters.querySelector("output").textContent = `${visible.size} of ${found.length} rows`;
    more.hidden = visible.size === found.length;
  };
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("change", () => { shown = PAGE; update(); });
  more.addEventListener("click", () => {
    const first = samples.filter((sample) => !sample.hidden).length;
    shown += PAGE;
    update();
    samples.filter((sample) => !sample.hidden)[first]?.querySelector("summary")?.focus();
  });
  update();
}

// Plots: drawn once the text is on the screen. The libraries follow this script in the page.
addEventListener("DOMContentLoaded", () => {
  const { specs, config } = JSON.parse(document.getElementById("specs").textContent);
  const draw = async () => {
    for (const place of document.querySelectorAll("[data-plot]")) {
      await vegaEmbed(place, specs[place.dataset.plot], {
        actions: false, ast: true, config, renderer: "svg", tooltip: { theme: "custom" },
      });
      place.removeAttribute("role");
      place.dataset.drawn = "yes";
    }
  };
  requestAnimationFrame(() => setTimeout(draw));
});
