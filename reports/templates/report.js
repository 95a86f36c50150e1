// Draws the charts of a page, and makes its controls work. Without scripts the page still reads.
"use strict";
(() => {
  const { base, specs, charts } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const choice = { divergence: "", scale: "log" };

  // Charts ---------------------------------------------------------------------------------------
  // A column of texts holds places in a list of them.
  const rowsOf = ({ names, words, rows }) =>
    rows.map((row) => Object.fromEntries(names.map((name, i) =>
      [name, name in words && row[i] !== null ? words[name][row[i]] : row[i]])));

  function shownRows(chart, table) {
    const rows = rowsOf(table);
    if (!chart.default || !table.names.includes("divergence")) return rows;
    const wanted = choice.divergence || chart.default;
    if (wanted === "all") return rows;
    const of = (name) => rows.filter((row) => row.divergence === name);
    const found = of(wanted);
    return found.length || wanted !== choice.divergence ? found : [];
  }

  function specification(chart) {
    const linear = choice.scale === "linear" && chart.linear !== null;
    const datasets = {};
    for (const [name, table] of Object.entries(chart.data)) datasets[name] = shownRows(chart, table);
    return { ...base, ...specs[linear ? chart.linear : chart.spec], datasets };
  }

  async function draw(figure) {
    const name = figure.dataset.chart;
    const chart = charts[`${name}/${choice.divergence}`] ?? charts[name];
    const place = figure.querySelector(".chart");
    figure.dataset.drawn = "";
    const spec = specification(chart);
    const options = { ast: true, renderer: "svg", actions: false };
    await window.vegaEmbed(place, spec, options);
    for (const note of all("[data-first]", figure)) {
      note.textContent = note.dataset[choice.divergence] ?? note.dataset.first;
    }
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "300px" });
  const figures = all("figure[data-chart]");
  figures.forEach((figure) => seen.observe(figure));

  function redraw() {
    for (const figure of figures) if ("drawn" in figure.dataset) draw(figure);
  }

  // Records --------------------------------------------------------------------------------------
  const packed = byId("result-data");
  let result;
  async function resultOf() {
    if (result === undefined) {
      const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      result = JSON.parse(await new Response(stream).text());
    }
    return result;
  }
  window.capcheckResult = resultOf;

  const resolve = (root, pointer) =>
    pointer.split("/").slice(1).reduce(
      (value, part) => value?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], root);
  // Characters that reverse or hide text are shown as their escapes.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
  const plain = (text) =>
    text.replace(HIDDEN, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));

  // Family and budget of a record, as far as its place tells.
  function titleOf(root, pointer) {
    const parts = pointer.split("/").slice(1);
    const family = parts[0] === "families" ? root.families[parts[1]] : null;
    if (!family) return parts.join(", ").replaceAll("_", " ");
    const budget = parts[2] === "cells" ? family.cells[parts[3]]?.budget : null;
    const names = [family.family, family.network.name];
    if (budget) names.push(`length ${budget.length}, steps ${budget.steps}`);
    names.push(parts.at(-1).replaceAll("_", " "));
    return names.filter(Boolean).join(", ");
  }

  const dialog = byId("record");
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-record]");
    if (!link || !dialog) return;
    event.preventDefault();
    const pointer = link.dataset.record;
    const found = resolve(await resultOf(), pointer);
    dialog.querySelector("strong").textContent = plain(titleOf(await resultOf(), pointer));
    dialog.querySelector("code").textContent = plain(pointer);
    dialog.querySelector("pre").textContent = plain(JSON.stringify(found, null, 2));
    dialog.showModal();
    dialog.addEventListener("close", () => link.focus(), { once: true });
  });
  dialog?.querySelector("button").addEventListener("click", () => dialog.close());

  // Downloads ------------------------------------------------------------------------------------
  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const COLUMNS = ["family", "network", "length", "steps", "model_calls", "outcome", "divergence",
    "value", "low", "high", "kind", "unit", "samples"];
  // A cell that begins like a formula would be one in a spreadsheet.
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = /^[=+@\t\r]/.test(text) || /^-[^\d.]/.test(text) ? "'" + text : text;
    return /[",\n\r]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  function table({ families }) {
    const lines = [COLUMNS];
    for (const family of families) {
      for (const one of family.cells) {
        for (const [name, e] of Object.entries(one.estimates)) {
          lines.push([family.family, family.network.name ?? family.network.kind, one.budget.length,
            one.budget.steps, one.model_calls, one.outcome, name, e.value, e.low, e.high, e.kind,
            e.unit, e.samples]);
        }
      }
    }
    return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
  }
  byId("download-json")?.addEventListener("click", async () =>
    save("capcheck.json", "application/json", JSON.stringify(await resultOf(), null, 2)));
  byId("download-csv")?.addEventListener("click", async () =>
    save("capcheck.csv", "text/csv", table(await resultOf())));

  // Controls -------------------------------------------------------------------------------------
  all(".controls[hidden]").forEach((one) => { one.hidden = false; });
  for (const name of ["divergence", "scale"]) {
    byId(name)?.addEventListener("change", (event) => {
      choice[name] = event.target.value;
      redraw();
    });
  }
  byId("open-all")?.addEventListener("click", (event) => {
    const details = all("details");
    const open = !details.every((one) => one.open);
    details.forEach((one) => { one.open = open; });
    event.target.textContent = open ? "fold all" : "open all";
  });
  const openTarget = () => {
    const place = location.hash.length > 1 ? byId(decodeURIComponent(location.hash.slice(1))) : null;
    if (place?.matches("details")) place.open = true;
  };
  window.addEventListener("hashchange", openTarget);
  openTarget();

  const families = byId("families");
  const filters = all("input[data-filter]");
  function filter() {
    const wanted = new Set(filters.filter((one) => one.checked).map((one) => one.dataset.filter));
    for (const row of all("tr[data-outcome]", families)) {
      row.hidden = !wanted.has(row.dataset.outcome);
    }
    for (const body of families.tBodies) {
      const heading = body.querySelector("tr.group");
      if (heading) heading.hidden = !all("tr[data-outcome]", body).some((row) => !row.hidden);
    }
  }
  filters.forEach((one) => one.addEventListener("change", filter));

  const grouped = families ? [...families.tBodies].map((body) => [body, [...body.rows]]) : [];
  function sortBy(column, head) {
    const before = head.getAttribute("aria-sort");
    const rising = before !== "ascending";
    all("thead th[aria-sort]", families).forEach((one) => one.setAttribute("aria-sort", "none"));
    if (before === "descending") {  // a third click brings the groups back
      families.classList.remove("sorted");
      grouped.forEach(([body, rows]) => body.append(...rows));
      return;
    }
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    families.classList.add("sorted");
    const rows = all("tr[data-outcome]", families);
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const known = rows.filter((row) => !["", "–"].includes(key(row)));
    known.sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true }));
    if (!rising) known.reverse();
    families.tBodies[0].append(...known, ...rows.filter((row) => !known.includes(row)));
  }
  for (const head of families ? all("thead th[data-sortable]", families) : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(head.cellIndex, head));
  }

  // A printed page shows everything.
  window.addEventListener("beforeprint", () => {
    all("details").forEach((one) => { one.open = true; });
    figures.filter((one) => !("drawn" in one.dataset)).forEach(draw);
  });
})();
