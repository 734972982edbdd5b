// Pages of runs: everything works without this file, as one long form and with a page that reloads.
(function () {
  "use strict";

  const find = (id) => document.getElementById(id);
  const form = find("answers");
  const session = find("session");

  // -- Several pages in a row -----------------------------------------------------------------------------------------
  const pages = form ? [...form.querySelectorAll(".answers-page")] : [];
  const send = form ? form.querySelector("button[value=answer]") : null;
  let current = 0;

  function show(index, focus) {
    current = index;
    pages.forEach((page, place) => { page.hidden = place !== index; });
    const last = index === pages.length - 1;
    send.hidden = !last;
    find("next").hidden = last;
    find("back").hidden = index === 0;
    const of = find("of");
    of.hidden = false;
    of.textContent = form.dataset.of.replace("{number}", index + 1).replace("{count}", pages.length);
    if (!focus) return;
    const first = pages[index].querySelector("h2, input, select, textarea");
    if (first) first.focus({ preventScroll: true });
    form.scrollIntoView({ block: "start" });
  }

  function checkOneOf(within) {
    // Browsers know no group of checkboxes of which one is needed.
    const groups = new Map();
    within.querySelectorAll("input[data-one-of]").forEach((box) => groups.set(box.name, [...(groups.get(box.name) || []), box]));
    groups.forEach((boxes) => boxes[0].setCustomValidity(boxes.some((box) => box.checked) ? "" : boxes[0].dataset.oneOf));
  }

  function checkFiles(within) {
    within.querySelectorAll("input[type=file][data-most]").forEach((field) => {
      const large = [...field.files].some((file) => file.size > Number(field.dataset.most));
      field.setCustomValidity(large ? field.dataset.tooLarge : "");
    });
  }

  function firstFault(within) {
    checkOneOf(within);
    checkFiles(within);
    return [...within.querySelectorAll("input, select, textarea")].find((field) => !field.checkValidity());
  }

  function tell(field) {
    const page = field.closest(".answers-page");
    if (pages.length > 1 && page) show(pages.indexOf(page), false);
    field.reportValidity();
  }

  function next() {
    const fault = firstFault(pages[current]);
    if (fault) tell(fault);
    else show(current + 1, true);
  }

  function beforeSending(event) {
    if (event.submitter && event.submitter.formNoValidate) return;
    const early = pages.length > 1 && current < pages.length - 1; // Enter in a field of an earlier page
    const fault = early ? null : firstFault(event.target);
    if (!early && !fault) return;
    event.preventDefault();
    event.stopPropagation(); // nothing was sent: the same button may be used again
    if (early) next();
    else tell(fault);
  }

  document.querySelectorAll("form.answers").forEach((one) => {
    one.noValidate = true; // a browser cannot point at what stands on a page that is not shown
    one.addEventListener("submit", beforeSending);
    one.addEventListener("change", () => { checkOneOf(one); checkFiles(one); });
  });
  if (pages.length > 1) {
    form.classList.add("paged");
    find("next").addEventListener("click", next);
    find("back").addEventListener("click", () => show(current - 1, true));
    const wrong = pages.findIndex((page) => page.querySelector(".errors"));
    show(Math.max(wrong, 0), false);
  }

  // -- Decisions ------------------------------------------------------------------------------------------------------
  const reason = document.querySelector("[data-on-reject]");
  if (reason) {
    reason.form.addEventListener("click", (event) => {
      if (event.target.name === "action") reason.required = event.target.value === "reject";
    });
  }

  // -- Times in the person's own zone ---------------------------------------------------------------------------------
  const clock = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
  document.querySelectorAll("time[datetime]").forEach((time) => { time.textContent = clock.format(new Date(time.dateTime)); });

  // -- How it stands --------------------------------------------------------------------------------------------------
  if (!session) return;
  const waits = "waits" in session.dataset;
  const task = session.dataset.task;
  const began = Date.now();
  let busy = false;
  if (waits) document.querySelectorAll("[data-without-script]").forEach((line) => { line.hidden = true; });

  function pause() {
    if (task) return 20000; // a form is being filled in: another window may answer it
    const passed = Date.now() - began;
    return passed < 15000 ? 1000 : passed < 120000 ? 3000 : 10000;
  }

  function draw(lines) {
    const list = find("lines");
    const blank = find("line");
    if (!list || !blank) return;
    lines.forEach((line, place) => {
      let row = [...list.children].find((one) => one.dataset.key === line.key);
      if (!row) {
        row = blank.content.firstElementChild.cloneNode(true);
        row.dataset.key = line.key;
        row.querySelector(".line-title").textContent = line.title;
      }
      if (list.children[place] !== row) list.insertBefore(row, list.children[place] || null);
      row.className = `line ${line.state}`;
      row.querySelector("[data-said]").textContent = blank.content.querySelector("[data-said]").dataset[line.state];
    });
    while (list.children.length > lines.length) list.lastElementChild.remove();
  }

  async function look() {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const answer = await fetch(session.dataset.state, { headers: { Accept: "application/json" } });
      if (!answer.ok) return;
      const now = await answer.json();
      if (waits && (now.view !== session.dataset.view || now.over)) location.replace(session.dataset.here);
      else if (waits) draw(now.lines);
      else if (task) find("meanwhile").hidden = now.open.includes(task);
    } catch {
      // Offline for a moment: the next look will tell.
    } finally {
      busy = false;
    }
  }

  function again() {
    window.setTimeout(() => look().finally(again), pause());
  }

  if (!waits && !task) return;
  document.addEventListener("visibilitychange", look);
  window.addEventListener("focus", look);
  again();
})();
