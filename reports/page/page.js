"use strict";
// Rows sort by the data-value of their cells: numbers as numbers, missing values always last.
function compareCells(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const x = Number(a), y = Number(b);
  const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  return direction * order;
}

function sortBy(table, index, heading) {
  const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const rows = Array.from(table.tBodies[0].rows);
  rows.sort((a, b) => compareCells(a.cells[index].dataset.value, b.cells[index].dataset.value, direction));
  table.tBodies[0].append(...rows);
}

function filterRows(table, text, counter) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const content = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => content.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  const all = table.tBodies[0].rows.length;
  counter.textContent = shown === all ? all + " rows" : shown + " of " + all + " rows";
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, index) => {
    heading.querySelector("button").addEventListener("click", () => sortBy(table, index, heading));
  });
  const input = document.querySelector('input[data-filters="' + table.id + '"]');
  const counter = document.querySelector('output[data-counts="' + table.id + '"]');
  if (input) input.addEventListener("input", () => filterRows(table, input.value, counter));
}
