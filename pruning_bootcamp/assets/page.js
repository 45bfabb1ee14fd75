"use strict";
// Sorting and filtering of the tables, and the plots, which are drawn when they come near the screen.
(() => {
  const sortable = (text) => {
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? null : number;
  };
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    if (cell.classList.contains("number")) return sortable(text);
    return text === "" || text === "–" ? null : text.toLowerCase();
  };
  const compare = (a, b) => (typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b);

  function sort(header) {
    const table = header.closest("table");
    const body = table.tBodies[0];
    const column = header.cellIndex;
    const now = header.getAttribute("aria-sort");
    const numbers = header.classList.contains("number");
    const next = now === null ? (numbers ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row, place) => ({ row, place, key: keyOf(row, column) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place; // empty: last
      return sign * compare(a.key, b.key) || a.place - b.place;
    });
    body.append(...rows.map((entry) => entry.row));
  }

  for (const button of document.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }

  for (const controls of document.querySelectorAll(".filters")) {
    const rows = [...document.getElementById(controls.dataset.for).tBodies[0].rows];
    const search = controls.querySelector("[data-search]");
    const chosen = [...controls.querySelectorAll("select")];
    const count = controls.querySelector(".count");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const show = () => {
      const words = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      let shown = 0;
      rows.forEach((row, place) => {
        const fits =
          words.every((word) => texts[place].includes(word)) &&
          chosen.every((select) => select.value === "" || row.dataset[select.dataset.key] === select.value);
        row.hidden = !fits;
        shown += fits;
      });
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    controls.addEventListener("input", show);
    controls.querySelector(".clear").addEventListener("click", () => {
      if (search) search.value = "";
      for (const select of chosen) select.value = "";
      show();
    });
    controls.hidden = false;
    show(); // a browser may have kept what was typed before a reload
  }

  // Plots ------------------------------------------------------------------------------------------------------------
  const figures = JSON.parse(document.getElementById("figures")?.textContent ?? "{}");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = () => document.documentElement.clientWidth < 640;

  function themed(layout) {
    const axes = {};
    for (const key of new Set([...Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)), "xaxis", "yaxis"])) {
      axes[key] = { ...layout[key], gridcolor: colour("grid"), zerolinecolor: colour("line"), linecolor: colour("quiet"), automargin: true };
    }
    const legend = { ...layout.legend, orientation: "h", yanchor: "bottom", y: 1, x: 0, font: { size: narrow() ? 10 : 12 } };
    return {
      ...layout, ...axes, legend, autosize: true,
      colorway: [1, 2, 3, 4, 5, 6, 7, 8].map((place) => colour(`series-${place}`)),
      paper_bgcolor: colour("page"), plot_bgcolor: colour("page"),
      font: { color: colour("text"), family: "system-ui, sans-serif", size: narrow() ? 11 : 13 },
      hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("text") } },
      margin: { l: 56, r: 16, t: 44, b: 64, ...layout.margin },
    };
  }

  // a trace names colours of the theme: "@quiet" becomes the value of --quiet
  const painted = (value) => {
    if (typeof value === "string") return value.startsWith("@") ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map(painted);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, painted(inner)]));
    return value;
  };

  let library = null;
  async function plotly() {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    return window.Plotly;
  }

  async function draw(place) {
    const figure = figures[place.dataset.figure];
    try {
      library ??= plotly();
      const Plotly = await library;
      const options = { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover", modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] };
      await Plotly.react(place, painted(structuredClone(figure.data)), painted(themed(figure.layout ?? {})), options);
      place.dataset.drawn = Math.round(performance.now());
    } catch (error) {
      place.textContent = "This browser could not draw the plot; its figures are in the table below.";
      console.error(error);
    }
  }

  const places = [...document.querySelectorAll(".plot")].filter((place) => place.dataset.figure in figures);
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "300px" },
  );
  for (const place of places) near.observe(place);
  const again = () => { for (const place of places) if (place.dataset.drawn) draw(place); };
  dark.addEventListener("change", again);
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  document.documentElement.dataset.readyMs = performance.now().toFixed(1);
})();
