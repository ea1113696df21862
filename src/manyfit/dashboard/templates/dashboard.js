// The bar above each page: where the search stands, and what one may ask of it. Pages other than the report's are
// loaded anew in the background, and replaced where they have changed.
(() => {
  "use strict";
  const bar = document.getElementById("bar");
  const { token, project } = bar.dataset;
  const state = document.getElementById("state");
  const answers = document.getElementById("answers");
  const refreshed = document.querySelector("main[data-refresh]");
  const SECONDS = project ? 1 : 2;

  // What is asked -----------------------------------------------------------------------------------------------------

  function detailsOf(form) {
    const details = {};
    for (const field of form.elements) {
      if (!field.name || field.value === "") continue;
      if ("number" in field.dataset) details[field.name] = Number(field.value);
      else if ("json" in field.dataset) details[field.name] = JSON.parse(field.value);
      else details[field.name] = field.value;
    }
    return details;
  }

  function say(text, refused) {
    const line = Object.assign(document.createElement("li"), { textContent: text, className: refused ? "refused" : "" });
    answers.prepend(line);
    while (answers.children.length > 4) answers.lastChild.remove();
  }

  async function ask(form) {
    let details;
    try {
      details = detailsOf(form);
    } catch {
      say('Values are written as {"units": 64, "rate": 0.001}.', true);
      return;
    }
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch("/p/" + project + "/requests", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Manyfit-Token": token },
        body: JSON.stringify({ what: form.dataset.ask, details }),
      });
      say((await answer.text()).trim(), !answer.ok);
      if (answer.ok) form.reset();
    } catch {
      say("Nobody answers: the dashboard has ended.", true);
    }
    button.disabled = false;
  }

  for (const form of document.querySelectorAll("form[data-ask]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      ask(form);
    });
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest || !event.target.closest("[data-compare]")) return;
    const chosen = [...document.querySelectorAll("input[name=project]:checked")].map((one) => one.value);
    if (chosen.length === 2) location.assign("/compare?a=" + chosen[0] + "&b=" + chosen[1]);
    else event.target.closest("[data-compare]").textContent = "Compare two: tick two projects first";
  });

  // What is new -------------------------------------------------------------------------------------------------------

  let answered = null;
  async function look() {
    try {
      if (project) {
        const answer = await fetch("/p/" + project + "/state", { cache: "no-store" });
        const found = await answer.json();
        if (state.textContent !== found.state) state.textContent = found.state;
        state.dataset.state = found.kind;
        for (const [name, text, done] of found.answers) {
          if (answered && !answered.has(name)) say(text, !done);
        }
        answered = new Set(found.answers.map(([name]) => name));
      }
      if (refreshed) await replace();
    } catch {
      if (state) state.dataset.state = "lost";
    }
    setTimeout(look, SECONDS * 1000);
  }

  let shown = null;
  async function replace() {
    const answer = await fetch(location.href, { cache: "no-store" });
    const main = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    if (!main) return;
    const html = main.innerHTML;
    const now = document.querySelector("main");
    if (shown !== null && shown !== html) {
      const ticked = new Set([...now.querySelectorAll("input:checked")].map((one) => one.value));
      const focused = document.activeElement && document.activeElement.getAttribute("href");
      now.replaceWith(main);
      for (const one of main.querySelectorAll("input")) one.checked = ticked.has(one.value);
      if (focused) [...main.querySelectorAll("a")].find((one) => one.getAttribute("href") === focused)?.focus();
    }
    shown = html;
  }

  // The trial that is picked in the report leads to its page.
  const link = document.getElementById("to-trial");
  function follow() {
    const row = document.querySelector("tr.picked[data-trial]");
    const trial = row ? row.dataset.trial : "";
    if (link.dataset.trial === trial) return;
    link.dataset.trial = trial;
    link.hidden = !trial;
    link.textContent = "Trial " + trial;
    link.href = "/p/" + project + "/trial/" + encodeURIComponent(trial);
    for (const field of document.querySelectorAll("form[data-ask] input[name=trial_id]")) field.value = trial;
  }
  if (link && !bar.dataset.trial) setInterval(follow, 300);

  setTimeout(look, 300);
})();
