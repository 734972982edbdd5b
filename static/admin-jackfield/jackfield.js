// The few conveniences of the admin's own pages. Without it every page still works.
(function () {
  "use strict";

  document.addEventListener("click", function (event) {
    var copy = event.target.closest("[data-copy]");
    if (copy) {
      var label = copy.querySelector("[data-copied]");
      navigator.clipboard.writeText(copy.dataset.copy).then(function () {
        if (!label) return;
        var before = label.textContent;
        label.textContent = label.dataset.copied;
        setTimeout(function () { label.textContent = before; }, 1500);
      });
      return;
    }
    var select = event.target.closest("[data-select]");
    if (select) select.select();
    var ask = event.target.closest("[data-confirm]");
    if (ask && !window.confirm(ask.dataset.confirm)) event.preventDefault();
  });

  // Each choice of a filter form shows its page at once; what depends on an earlier choice is asked anew.
  document.addEventListener("change", function (event) {
    var form = event.target.closest("form[data-submit]");
    if (!form || event.target.tagName !== "SELECT") return;
    var order = ["project", "toolkit", "tool"];
    var at = order.indexOf(event.target.name);
    if (at !== -1) {
      order.slice(at + 1).concat(at < 2 ? ["connection"] : []).forEach(function (name) {
        if (form.elements[name]) form.elements[name].disabled = true;
      });
    }
    form.submit();
  });

  document.addEventListener("submit", function (event) {
    var button = event.target.querySelector("[data-busy]");
    if (button) { button.textContent = button.dataset.busy; button.disabled = true; }
  });

  document.addEventListener("input", function (event) {
    var rows = event.target.dataset && event.target.dataset.filter;
    if (!rows) return;
    var text = event.target.value.toLowerCase();
    document.querySelectorAll(rows).forEach(function (row) {
      row.hidden = !row.querySelector("summary").textContent.toLowerCase().includes(text);
    });
  });
})();
