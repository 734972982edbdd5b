// A run that lives is looked at again and again; what was opened stays open. Without this the page has a link for it.
(function () {
  "use strict";

  var place = document.querySelector("[data-live]");
  if (!place) return;

  function state() { return place.querySelector("[data-stamp]"); }
  function living() { return state() && state().dataset.living !== "no"; }

  function opened() {
    return Array.from(place.querySelectorAll("details[open][data-key]")).map(function (one) { return one.dataset.key; });
  }

  function put(html) {
    var open = opened();
    var fall = place.querySelector(".jf-fall");
    var scrolled = fall ? fall.scrollLeft : 0;
    var focused = document.activeElement && document.activeElement.closest ? document.activeElement.closest("[data-key]") : null;
    var key = focused && place.contains(focused) ? focused.dataset.key : null;
    var fresh = document.createElement("template");
    fresh.innerHTML = html;
    if (!fresh.content.querySelector("[data-stamp]")) return;
    place.replaceChildren(fresh.content);
    place.querySelectorAll("[data-key]").forEach(function (one) {
      if (open.indexOf(one.dataset.key) !== -1) one.open = true;
      if (one.dataset.key === key) (one.querySelector("summary, button") || one).focus({ preventScroll: true });
    });
    fall = place.querySelector(".jf-fall");
    if (fall) fall.scrollLeft = scrolled;
  }

  function later() {
    if (living()) setTimeout(look, state().dataset.living === "waiting_for_input" ? 4000 : 1500);
  }

  function look() {
    if (document.hidden) { later(); return; }
    fetch(place.dataset.live + "?seen=" + encodeURIComponent(state().dataset.stamp), { headers: { Accept: "text/html" } })
      .then(function (answer) { return answer.status === 200 && !answer.redirected ? answer.text() : ""; })
      .then(function (html) { if (html && !String(window.getSelection())) put(html); })
      .catch(function () { /* the next look may succeed */ })
      .then(later);
  }

  later();
})();
