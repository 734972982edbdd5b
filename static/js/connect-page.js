// The connect pages: everything works without this file but telling a window that opened the page.
"use strict";

const find = (id) => document.getElementById(id);
const told = find("told");

function tell(message) {
  // The origin comes from the server, which knows who may be told; the browser delivers to no other.
  if (told && window.opener) window.opener.postMessage({ jackfield: "connect", ...message }, told.dataset.origin);
}

function tellResult() {
  const { id, status, toolkit, connection, message } = told.dataset;
  const result = { id, status, toolkit };
  tell({ event: "result", result: connection ? { ...result, connectionId: connection } : { ...result, message } });
}

function leave() {
  tell({ event: "done" });
  window.setTimeout(() => {
    window.close();
    const done = find("done");
    window.setTimeout(() => { // a window that no script opened, or that was cut off from its opener, stays
      const said = find("said");
      if (said && done) said.replaceChildren(note(done.dataset.closed));
    }, 200);
  }, 300); // what was told is read before its window is gone
}

function note(text) {
  const line = document.createElement("p");
  line.className = "note";
  line.textContent = text;
  return line;
}

function openOnce() {
  // From another page, a click brought the person here. From mail, a button does: scanners of mail come without a page.
  const form = find("open");
  if (!form || !(window.opener || document.referrer)) return;
  if (document.prerendering) document.addEventListener("prerenderingchange", () => form.requestSubmit(), { once: true });
  else form.requestSubmit();
}

function searchLive() {
  const field = find("q");
  const list = find("offers");
  if (!field || !list || new URLSearchParams(location.search).get("q")) return;
  document.querySelectorAll("[data-without-script]").forEach((button) => { button.hidden = true; });
  const offers = [...list.children].map((row) => ({ row, name: row.dataset.name.toLowerCase() }));
  const count = find("count");
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const { row, name } of offers) {
      row.hidden = !words.every((word) => name.includes(word));
      if (!row.hidden) shown += 1;
    }
    find("none").hidden = shown > 0;
    count.textContent = field.value ? count.dataset.text.replace("{count}", shown) : "";
  };
  field.addEventListener("input", filter);
  field.form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}

function offerDone() {
  const done = find("done");
  if (!done || !told) return;
  done.hidden = false;
  done.addEventListener("click", (event) => {
    event.preventDefault();
    leave();
  });
}

function sendOnce() {
  // A second click while a service is asked would connect an account twice.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "1";
    window.setTimeout(() => { delete form.dataset.sent; }, 10000); // for who stopped the page, or came back to it
  });
  window.addEventListener("pageshow", () => document.querySelectorAll("[data-sent]").forEach((form) => { delete form.dataset.sent; }));
}

function mendPictures() {
  // A picture that cannot be had leaves the letter of its service, or nothing; never the browser's torn page.
  for (const picture of document.images) {
    const mend = () => picture.replaceWith(picture.parentElement.dataset.initial ?? "");
    if (picture.complete) picture.decode().catch(mend);
    else picture.addEventListener("error", mend);
  }
}

const first = document.querySelector("[data-first]");
if (first) first.focus(); // said once more to those who cannot see it
sendOnce();
openOnce();
searchLive();
offerDone();
mendPictures();
if (told && told.dataset.id) {
  tellResult();
  if ("only" in told.dataset && told.dataset.status === "connected") leave();
}
