"use strict";
// Reads the page's data, draws its plots in the theme's colours, and lets its tables be sorted and filtered.
// Names come from the user's files: they are only ever set as text.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const button = document.getElementById("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");

function colours(value) {
  // Every "var(--name)" within a figure as the colour it has in this theme.
  const style = getComputedStyle(root);
  const walk = (v) => {
    if (typeof v === "string") return v.startsWith("var(") ? style.getPropertyValue(v.slice(4, -1)).trim() : v;
    if (Array.isArray(v)) return v.map(walk);
    if (v && typeof v === "object") return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, walk(x)]));
    return v;
  };
  return walk(value);
}

function axis(own) {
  const title = own.title ? { title: { text: own.title, font: { size: 13 }, standoff: 10 } } : {};
  return { gridcolor: "var(--line)", zeroline: false, linecolor: "var(--line)", automargin: true, ...own, ...title };
}

function draw(name, figure) {
  const place = document.getElementById("plot-" + name);
  if (!place) return;
  let { xaxis, yaxis, square, ...rest } = figure.layout;
  if (square) place.style.height = Math.min(place.clientWidth, 720) + "px";
  if (place.clientWidth < 500) {
    figure = { ...figure, data: figure.data.map((trace) => ({ ...trace, showscale: false })) };
    if (xaxis.ticktext && xaxis.ticktext.length > 12) xaxis = { ...xaxis, showticklabels: false };
  }
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: "var(--text)", family: "system-ui, sans-serif", size: 12 },
    margin: { t: 30, r: 12, b: 44, l: 48 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "closest",
    hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--line)", font: { color: "var(--text)" }, align: "left" },
    xaxis: axis(xaxis), yaxis: axis(yaxis), ...rest,
  };
  const config = { displayModeBar: false, responsive: true };
  Plotly.react(place, colours(figure.data), colours(layout), config).then(() => place.setAttribute("data-drawn", ""));
}

function drawAll() {
  for (const [name, figure] of Object.entries(data.figures)) draw(name, figure);
}

function setTheme(dark) {
  root.classList.toggle("dark", dark);
  button.setAttribute("aria-pressed", String(dark));
  drawAll();
}

button.addEventListener("click", () => setTheme(!root.classList.contains("dark")));
system.addEventListener("change", (event) => setTheme(event.matches));
let before = false; // the theme before printing, which is done on white
window.addEventListener("beforeprint", () => { before = root.classList.contains("dark"); if (before) setTheme(false); });
window.addEventListener("afterprint", () => { if (before) setTheme(true); });

const STEP = 25; // rows shown at first, and times four at each "Show more"

function table(place) {
  const { columns, rows } = data.tables[place.dataset.table];
  const [head, body] = [place.querySelector("thead"), place.querySelector("tbody")];
  const [input, status, more] = [place.querySelector("input"), place.querySelector("[role=status]"), place.querySelector(".more")];
  let shown = STEP, sorted = null, descending = false;

  const cells = columns.map((column, i) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (column.kind === "text") cell.className = "text";
    const sort = document.createElement("button");
    sort.type = "button";
    sort.textContent = column.name;
    sort.addEventListener("click", () => {
      descending = sorted === i ? !descending : column.kind !== "text";
      sorted = i;
      fill();
    });
    cell.append(sort);
    return cell;
  });
  const line = document.createElement("tr");
  line.append(...cells);
  head.append(line);

  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
    const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return descending ? -order : order;
  };
  const text = (value, kind) => {
    if (value === null) return "–";
    if (kind === "percent") return value.toFixed(1);
    return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 2 }) : value;
  };

  function fill() {
    const wanted = input.value.trim().toLowerCase();
    let found = rows.filter((row) => row.some((value) => typeof value === "string" && value.toLowerCase().includes(wanted)));
    if (sorted !== null) found = [...found].sort((a, b) => compare(a[sorted], b[sorted]));
    cells.forEach((cell, i) => {
      if (i === sorted) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    body.replaceChildren(...found.slice(0, shown).map((row) => {
      const line = document.createElement("tr");
      row.forEach((value, i) => {
        const cell = document.createElement(i ? "td" : "th");
        if (!i) cell.scope = "row";
        cell.className = columns[i].kind === "text" ? "text" : "";
        if (columns[i].kind === "text" && ["many", "medium", "few"].includes(value)) cell.classList.add(value);
        cell.textContent = text(value, columns[i].kind);
        line.append(cell);
      });
      return line;
    }));
    status.textContent = `${Math.min(shown, found.length).toLocaleString("en")} of ${found.length.toLocaleString("en")} classes shown`;
    more.hidden = found.length <= shown;
  }

  input.addEventListener("input", () => { shown = STEP; fill(); });
  more.addEventListener("click", () => { shown *= 4; fill(); });
  fill();
}

document.querySelectorAll("[data-table]").forEach(table);
setTheme(system.matches);
