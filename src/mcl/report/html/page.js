"use strict";
// Tables: a click on a heading sorts by it, numbers by their own order; what is no number stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  for (const heading of table.querySelectorAll("th")) {
    heading.querySelector("button").addEventListener("click", () => {
      const place = heading.cellIndex;
      const numbers = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numbers; // the largest number first, words from A
      const key = (row) => row.cells[place].dataset.order;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === undefined && y === undefined) {
          const order = row(a).localeCompare(row(b), undefined, { numeric: true });
          return down ? -order : order;
        }
        if (x === undefined || y === undefined) return x === undefined ? 1 : -1;
        return down ? y - x : x - y;
      });
      function row(one) { return one.cells[place].textContent; }
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  }
}
// Figures: a click shows them large; of a picture another click shows its own pixels.
const dialog = document.getElementById("zoomed");
const shown = dialog.querySelector(".shown");
for (const button of document.querySelectorAll("button.zoom")) {
  button.addEventListener("click", () => {
    const figure = button.closest("figure");
    dialog.querySelector("h4").textContent = figure.querySelector("figcaption").textContent.trim();
    shown.replaceChildren(button.firstElementChild.cloneNode(true));
    const legend = figure.querySelector(".legend");
    if (legend) shown.append(legend.cloneNode(true));
    dialog.showModal();
  });
}
shown.addEventListener("click", (event) => {
  if (event.target.tagName === "IMG" && event.target.naturalWidth > event.target.clientWidth + 1) event.target.classList.add("full");
  else if (event.target.classList.contains("full")) event.target.classList.remove("full");
  else dialog.close();
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
