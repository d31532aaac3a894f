
"use strict";
// Search, sorting and copying. Without it the page shows all models, in the order of their names.
(() => {
  const table = document.querySelector("table"), models = [...table.tBodies];
  const headings = [...table.tHead.rows[0].cells];
  const search = document.getElementById("search"), found = document.getElementById("found");
  // Not the sums: "fe" stands in many of them.
  const text = (model) => model.rows[0].textContent + " " + model.querySelector(".files").textContent;
  const texts = new Map(models.map((model) => [model, text(model).toLowerCase()]));
  const names = new Intl.Collator("en", { numeric: true });
  const state = new URLSearchParams(location.hash.slice(1)); // so that what is shown can be linked to

  function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const model of models) model.hidden = !words.every((word) => texts.get(model).includes(word));
    const shown = models.filter((model) => !model.hidden).length;
    found.textContent = shown + " of " + models.length + " models";
  }

  function sort(column, descending) {
    const value = (model) => model.rows[0].cells[column].dataset.value ?? "";
    const numeric = headings[column].classList.contains("number");
    models.sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (!a || !b) return !a - !b; // what was not measured comes last, either way
      const order = numeric ? a - b : names.compare(a, b);
      return descending ? -order : order;
    });
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    headings[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.append(...models);
  }

  function keep(changes) {
    for (const [key, value] of Object.entries(changes)) value ? state.set(key, value) : state.delete(key);
    try {
      history.replaceState(null, "", "#" + state);
    } catch { /* some browsers forbid it for a file: the page works without */ }
  }

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      sort(column, descending);
      keep({ sort: String(column + 1), down: descending ? "1" : "" });
    });
  });

  document.querySelectorAll(".command").forEach((command) => {
    const button = document.createElement("button"), code = command.querySelector("code");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // not allowed here: it is marked, for the keyboard to copy
        getSelection().selectAllChildren(code);
        button.textContent = "Press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    button.setAttribute("aria-live", "polite");
    command.append(button);
  });

  search.addEventListener("input", () => { find(); keep({ search: search.value }); });
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  search.value = state.get("search") ?? "";
  const column = Number(state.get("sort")) - 1;
  if (headings[column]) sort(column, state.has("down"));
  find();
  document.getElementById("controls").hidden = false;
  document.documentElement.classList.add("js");
})();
