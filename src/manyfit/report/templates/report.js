// Draws the charts of a report, and keeps one trial picked in all of them. No request leaves the page, unless it was
// made to look for what is new (`data.live`), and then only to where it came from.
(() => {
  "use strict";
  // "ast": expressions are interpreted and not compiled, so that the page needs no leave to run new code.
  // "logLevel" 1: errors; that a layer has no rows is none.
  const OPTIONS = { renderer: "svg", ast: true, actions: false, logLevel: 1 };
  const views = new Map(); // box of a chart -> {key, result}
  const aside = document.getElementById("picked");
  let data = read(document);
  let picked = "";

  function read(page) {
    return JSON.parse(page.getElementById("manyfit-data").textContent);
  }

  // Charts --------------------------------------------------------------------------------------------------------

  function specOf(id) {
    const chart = data.charts[id];
    const datasets = Object.fromEntries(chart.rows.map((name) => [name, data.datasets[name]]));
    return { ...chart.spec, datasets, width: "container", autosize: { type: "fit-x", contains: "padding" } };
  }

  async function draw(box) {
    const spec = specOf(box.dataset.chart);
    const key = JSON.stringify(spec);
    const params = spec.params.map((one) => (one.name === "picked" ? { ...one, value: picked } : one));
    const result = await vegaEmbed(box, { ...spec, params }, OPTIONS);
    views.set(box, { key, result });
    result.view.addEventListener("click", (event, item) => {
      const trial = item && item.datum && item.datum.trial;
      pick(trial === undefined || trial === null ? "" : String(trial));
    });
  }

  async function drawAll() {
    for (const box of document.querySelectorAll(".chart")) {
      if (!views.has(box)) await draw(box);
    }
    document.body.dataset.drawn = "true";
  }

  // The picked trial ------------------------------------------------------------------------------------------------

  function rowOf(trial) {
    for (const rows of Object.values(data.datasets)) {
      const row = rows.find((one) => one.trial === trial && "state" in one);
      if (row) return row;
    }
    return null;
  }

  function pick(trial) {
    picked = trial;
    for (const { result } of views.values()) result.view.signal("picked", trial).runAsync();
    for (const row of document.querySelectorAll("tr[data-trial]")) {
      const same = row.dataset.trial === trial;
      row.classList.toggle("picked", same);
      row.setAttribute("aria-selected", String(same));
    }
    location.replace("#trial=" + encodeURIComponent(trial)); // a page that is loaded anew goes on with it
    describe(trial);
  }

  function describe(trial) {
    aside.replaceChildren();
    aside.hidden = !trial;
    if (!trial) return;
    const line = document.createElement("div");
    const add = (tag, text) => line.appendChild(Object.assign(document.createElement(tag), { textContent: text }));
    add("strong", "trial " + trial);
    const row = rowOf(trial);
    if (row) {
      add("span", row.state + (row.standing ? ", " + row.standing : ""));
      if (row.score !== null) add("span", data.objective + " " + Number(row.score.toPrecision(4)));
      for (const [column, name] of Object.entries(data.names)) {
        if (row[column] !== null && row[column] !== undefined) add("span", name + " " + row[column]);
      }
    }
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Let go" });
    close.addEventListener("click", () => pick(""));
    line.appendChild(close);
    aside.appendChild(line);
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") pick("");
    const row = document.activeElement && document.activeElement.closest("tr[data-trial]");
    if (!row || (event.key !== "ArrowDown" && event.key !== "ArrowUp")) return;
    const next = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
    if (!next) return;
    event.preventDefault();
    next.querySelector("[data-pick]").focus();
    pick(next.dataset.trial);
  });

  document.addEventListener("click", (event) => {
    const of = (name) => event.target.closest && event.target.closest("[data-" + name + "]");
    if (of("pick")) pick(of("pick").dataset.pick === picked ? "" : of("pick").dataset.pick);
    else if (of("sort")) sort(of("sort").closest("th"));
    else if (of("copy")) copy(of("copy"));
    else if (event.target.closest && event.target.closest("tr[data-trial]")) {
      pick(event.target.closest("tr[data-trial]").dataset.trial);
    }
  });

  // Tables ----------------------------------------------------------------------------------------------------------

  function sort(head) {
    const place = [...head.parentNode.children].indexOf(head);
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const one of head.parentNode.children) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.children[place].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [Number(key(a)), Number(key(b))];
      const numbers = key(a) !== "" && key(b) !== "" && !Number.isNaN(x) && !Number.isNaN(y);
      const order = numbers ? x - y : (key(a) === "") - (key(b) === "") || key(a).localeCompare(key(b));
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  }

  async function copy(button) {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // files of some browsers may not write there
    }
  }

  // What is new -----------------------------------------------------------------------------------------------------

  // Takes another page of the same project: charts that have not changed stay, so that nothing flickers.
  async function take(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    const main = page.querySelector("main");
    if (!main || !page.getElementById("manyfit-data")) return;
    data = read(page);
    const old = new Map([...views].map(([box, view]) => [box.dataset.chart, { box, ...view }]));
    for (const box of main.querySelectorAll(".chart")) {
      const before = old.get(box.dataset.chart);
      if (!before) continue;
      if (before.key === JSON.stringify(specOf(box.dataset.chart))) box.replaceWith(before.box);
      else box.style.minHeight = before.box.offsetHeight + "px"; // what is below does not jump
    }
    const focused = document.activeElement && document.activeElement.dataset.pick;
    document.querySelector("main").replaceWith(main);
    for (const [box, { result }] of views) {
      if (!box.isConnected) {
        result.finalize();
        views.delete(box);
      }
    }
    await drawAll();
    if (focused) [...document.querySelectorAll("[data-pick]")].find((one) => one.dataset.pick === focused)?.focus();
    pick(picked);
  }

  async function look() {
    let pause = 150; // whoever answers waits until there is something new
    try {
      const answer = await fetch(data.live, { cache: "no-store" });
      if (answer.ok) await take(await answer.text());
    } catch {
      pause = 1000; // whoever serves the page is gone: what is there stays
    }
    setTimeout(look, pause);
  }

  const start = new URLSearchParams(location.hash.slice(1)).get("trial");
  drawAll().then(() => {
    if (start) pick(start);
    if (data.live) look();
  });
  window.manyfit = { pick, take };
})();
